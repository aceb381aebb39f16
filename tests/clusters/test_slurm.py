"""The batch script of docs/cluster.md, with mocks of the sweep and of SLURM."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from processes import wait_for

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
SWEEP = """#!/bin/bash
trap 'sleep 1; echo saved; exit 143' TERM
touch runs
for _ in $(seq {tenths}); do sleep 0.1; done
exit {code}
"""


@pytest.mark.parametrize(("is_signalled", "code"), [(True, 143), (False, 0), (False, 1)])
def test_the_batch_script_waits_for_checkpoints_and_requeues_the_job(tmp_path, is_signalled, code):
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", PAGE.read_text(), re.DOTALL)
    programs = {
        "job": script,
        "python": SWEEP.format(tenths=300 if is_signalled else 1, code=code),
        "scontrol": '#!/bin/bash\necho "$@" >> queued\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    job = subprocess.Popen(["./job"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    if is_signalled:
        wait_for((tmp_path / "runs").exists, 20)
        job.send_signal(signal.SIGTERM)
    said, _ = job.communicate(timeout=60)
    assert job.returncode == code
    assert ("saved" in said) is is_signalled
    assert (tmp_path / "queued").exists() is is_signalled
    if is_signalled:
        assert (tmp_path / "queued").read_text() == "requeue 17\n"
