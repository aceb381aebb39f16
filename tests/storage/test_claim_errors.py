"""Claims when an operation succeeds but reports an error, and when operations of two processes coincide."""

import errno
import os

import pytest
from claim_parts import files
from factories import dead_owner

from mdssl.storage.claim import Claim
from mdssl.storage.location import Location
from mdssl.storage.retry import retrying

pytestmark = pytest.mark.usefixtures("fast")


def test_hard_link_that_succeeds_despite_an_error_is_the_claim(trial_dir, monkeypatch):
    """This happens on soft-mounted NFS and some FUSE filesystems."""
    link, faults = os.link, [OSError(errno.EIO, "Input/output error")]

    def link_and_fail(source, target):
        link(source, target)
        if faults:
            raise faults.pop()

    monkeypatch.setattr(os, "link", link_and_fail)
    claim = Claim(trial_dir)
    with retrying(60):
        assert claim.take() is None
    claim.release()
    faults.append(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        claim.take()
    assert claim.take() is None, "a claim does not wait for itself"
    claim.check()
    claim.release()
    faults.append(OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"), claim:
        claim.take()
    assert files(trial_dir) == [], "a failed claim leaves no file"


def test_retried_release_does_not_delete_the_claim_of_another_process(trial_dir, monkeypatch):
    delete, first, second = Location._delete, Claim(trial_dir), Claim(trial_dir)

    def delete_and_fail(place):
        delete(place)
        if place.name == "claim.json":
            monkeypatch.undo()
            assert second.take() is None
            raise OSError(errno.EIO, "Input/output error")

    assert first.take() is None
    monkeypatch.setattr(Location, "_delete", delete_and_fail)
    with retrying(60):
        first.release()
    second.check()
    second.release()
    assert files(trial_dir) == []


def test_takeover_during_a_release_leaves_no_file(trial_dir, monkeypatch):
    write_new, second, late = Location.write_new, Claim(trial_dir), Claim(trial_dir)
    (trial_dir / "claim.json").write_bytes(dead_owner().to_bytes())

    def write_late(place, data):
        monkeypatch.undo()
        (trial_dir / "claim.json").delete()
        assert second.take() is None
        return write_new(place, data)

    monkeypatch.setattr(Location, "write_new", write_late)
    assert late.take().token == second.token
    second.release()
    assert files(trial_dir) == []


@pytest.mark.parametrize("successors", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "b", "b": "b"}])
def test_cyclic_chain_of_claims_can_be_taken_over(trial_dir, successors):
    (trial_dir / "claim.json").write_bytes(dead_owner("a").to_bytes())
    for token, successor in successors.items():
        (trial_dir / f"claim-after-{token}.json").write_bytes(dead_owner(successor).to_bytes())
    with Claim(trial_dir) as claim:
        claim.wait()
        claim.check()
    assert files(trial_dir) == []
