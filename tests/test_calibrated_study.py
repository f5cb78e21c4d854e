"""A study by the command whose methods look at data, form chains and change the structure."""

import json

import pytest
from studies import run, state

CONFIG = """
task: {digits: {network: cnn}}
trials: 14
epochs: 2
searcher: random
scheduler: fifo
calibration: {samples: 64}
space:
  method:
    - gptq
    - lamp
    - {wanda: {sparsity: [0.5]}}
    - [channels, {gptq: {bits: [4]}}]
    - [n_m, rtn]
    - [svd, rtn]
  init: [zeros, eora]
  adapter: [none, lora]
  rank: [2]
  optimizer: [adam]
  rest: [none, cast]
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_it_runs_to_verified_files_and_goes_on(tmp_path):
    done = run(tmp_path, "--name", "seen", config=CONFIG)
    assert done.returncode == 0, done.stderr
    assert "calibrated on 64 examples of train" in done.stderr
    assert "are missing" not in done.stdout + done.stderr  # of MLflow's runs

    study = state(tmp_path, "seen")
    records = [trial.record for trial in study.ended]
    assert {r.outcome.status.value for r in records} == {"completed"}, [
        r.outcome.error for r in records
    ]
    assert all(v.verified for v in study.verifications.values())
    ways = {"+".join(m.name for m in rule.methods) for r in records for rule in r.trial.layers}
    assert {"gptq", "n_m+rtn", "channels+gptq"} <= ways
    assert len({r.origin.fingerprint.calibration for r in records}) == 1
    described = json.loads((tmp_path / "results" / "seen" / "study.json").read_text())
    assert described["splits"]["calibration"] == {"n": 64}

    more = run(tmp_path, "--name", "seen", "--resume", "--trials", "16", config=CONFIG)
    assert more.returncode == 0, more.stderr
    assert len(state(tmp_path, "seen").ended) == len(records) + 2
    other = CONFIG.replace("samples: 64", "samples: 32")
    refused = run(tmp_path, "--name", "seen", "--resume", "--trials", "16", config=other)
    assert refused.returncode == 2
    assert "calibration" in refused.stderr
