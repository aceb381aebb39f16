"""Commands and flags in the documentation, the help of sweeps, messages and templates exist."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from sweep_runs import SWEEPS

from mdssl.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("mdssl/cli/sweeps/*.py"))]
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
COMMAND = re.compile(r"\bmdssl ((?:data|sweep) [a-z-]+|[a-z]+)|\bsweeps/([a-z_]+)\.py")
FOREIGN = set(
    FLAG.findall("""--help --help-all --version --print-completion --save-config --no-wait --submission-id --generate
    aws: --capabilities --filters --instance-id --instance-types --max-items --no-reboot --parameter-overrides
    --product-descriptions --query
    --region --service-code --stack-name --template-file
    sbatch and srun: --cpus-per-task --gres --nodes --ntasks --open-mode --requeue --signal --time
    convmv: --notest
    ray: --remote-port --tmux
    git, torchrun, tensorboard: --abbrev --always --dirty --exclude --nproc-per-node --logdir""")
)


def flags_of(settings: type) -> set[str]:
    """The flags of ``settings``; a setting that is on by default has a ``--no-`` flag."""
    return {f"--{'no-' * (field.default is True)}{field.name.replace('_', '-')}" for field in fields(settings)}


KNOWN = {name: flags_of(settings) for name, (settings, _) in COMMANDS.items()}
KNOWN |= {path.stem: KNOWN[f"sweep {path.stem.replace('_', '-')}"] for path in SWEEPS.glob("*.py")}
EVERY = set().union(*KNOWN.values()) | FOREIGN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_the_documentation_exist(page):
    text = page.read_text()
    if page.name == "CHANGELOG.md":
        text = text.partition("\n## ")[2].partition("\n## ")[0]
    unknown = set(FLAG.findall(text)) - EVERY
    assert not unknown


def test_commands_in_the_documentation_have_the_flags_shown():
    seen = 0
    for page in PAGES:
        for line in page.read_text().replace("\\\n", " ").splitlines():
            parts = list(COMMAND.finditer(line))
            # Flags after a command in prose or after a pipe are not flags of the command.
            if len(parts) != 1 or not re.match(r"\s*(\$ )?(python |uv run )?(mdssl|sweeps/)", line):
                continue
            name = parts[0][1] or parts[0][2]
            found = set(FLAG.findall(line[parts[0].end() :].partition(" | ")[0])) - FOREIGN
            assert found <= KNOWN[name], (page.name, line)
            seen += bool(found)
    assert seen > 20


def texts_of(file: Path) -> list[str]:
    """The strings of a Python file except docstrings, with ``{…}`` for each value, or the code in a template."""
    if file.suffix != ".py":
        return re.findall(r"<code>(.*?)</code>" if file.suffix == ".html" else r"(?s).*", file.read_text())
    tree, found = ast.parse(file.read_text()), []
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "{…}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_commands_and_flags_in_messages_and_templates_exist():
    seen = 0
    for file in sorted(path for path in (ROOT / "mdssl").rglob("*") if path.suffix in (".py", ".html", ".md")):
        for text in texts_of(file):
            # "--no-" is a prefix, --trial is a former name, and --print-completion calls --tyro-print-completion.
            assert set(FLAG.findall(text)) - {"--no-", "--trial", "--tyro-print-completion"} <= EVERY, (file, text)
            for script in re.findall(r"\bsweeps/(\w+)\.py", text):
                assert (SWEEPS / f"{script}.py").exists(), (file, text)
            # In backticks or after a colon, "mdssl …" is a command, elsewhere the package.
            for command in re.findall(r"(?:`|[Rr]un:? |: )mdssl ([a-z][^`\n.;]*)", text):
                words = command.split()
                name = " ".join(words[: 2 if words[0] in ("data", "sweep") else 1])
                if re.fullmatch(r"sweep( FILE| {…})?", name):
                    continue  # a configuration file
                assert name in KNOWN, (file, text)
                assert set(FLAG.findall(command)) <= KNOWN[name], (file, text)
                seen += 1
    assert seen > 20
