"""The GPU check says what it ran, what it skipped and why."""

import torch

from scripts.check_gpu import Check, checks, report, run


def test_results_and_reasons_are_reported(tmp_path):
    done = run(Check("says hello", ("-c", "print('hello')"), gpus=0), minutes=1)
    broken = run(Check("breaks", ("-c", "raise SystemExit(3)"), gpus=0), minutes=1)
    needy = run(Check("needs many", ("-c", ""), gpus=torch.cuda.device_count() + 1), minutes=1)
    text = report([done, broken, needy])
    assert done.outcome == "passed" and "hello" in text
    assert "FAILED: exit code 3" in text
    assert f"found {torch.cuda.device_count()}" in text


def test_a_check_that_hangs_is_ended():
    assert run(Check("hangs", ("-c", "import time; time.sleep(60)"), gpus=0), minutes=0.02).outcome.startswith("FAILED")


def test_every_command_names_a_module_or_file_that_exists(repository, tmp_path):
    for check in checks(tmp_path):
        own = [word for word in check.command if word.startswith(("tests/", "configs/"))]
        assert all((repository / word).exists() for word in own), own
