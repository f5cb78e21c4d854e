"""What the command ends with: where everything is, and what a person does next."""

import re
from urllib.parse import unquote, urlsplit

from study.result import StudyResult
from study.terminal.show import as_data, as_text
from study.tracking import page_address

LONG = "The disk that holds the study is nearly full and " * 6


def result(**more):
    more = {"tracking_uri": "http://mlflow:5000"} | more
    return StudyResult("mine", "/s/mine", (), (), **more)


def steps(**more):
    """By what they are for; the block after the last empty line."""
    block = as_text(result(**more)).rpartition("\n\n")[2]
    return dict(re.split("  +", line, maxsplit=1) for line in block.splitlines())


def test_the_report_opens_in_a_browser(tmp_path):
    page = tmp_path / "a report.html"
    page.write_text("<p>")
    address = steps(report={"html": str(page)})["read the report"].strip()
    assert urlsplit(address).scheme == "file"
    assert unquote(urlsplit(address).path) == str(page)
    elsewhere = steps(report={"html": "bucket/report.html"})
    assert elsewhere["read the report"].strip() == "bucket/report.html"
    assert "read the report" not in steps()


def test_where_the_runs_are_to_be_seen():
    page = page_address("http://mlflow:5000/", "#/experiments/1/runs")
    assert page == "http://mlflow:5000/#/experiments/1/runs"
    found = steps(runs_page=page)  # the server runs
    assert found["see every run"].strip() == page
    assert "and open" not in found
    local = page_address("sqlite:////tmp/mlflow.db", "#/experiments/1/runs")
    found = steps(tracking_uri="sqlite:////tmp/mlflow.db", runs_page=local)
    assert found["see every run"].strip().startswith("mlflow ui")
    assert urlsplit(found["and open"].strip()).port == 5000  # where that serves
    assert as_data(result(runs_page=page))["runs_page"] == page
    assert page_address("http://mlflow:5000", "") == ""
    assert steps()["see every run"].strip() == "http://mlflow:5000"


def test_the_smallest_certified_model_is_named_or_how_to_choose_one():
    found = steps(ships="/s/mine/artifacts/a.safetensors")
    assert found["smallest certified"].strip() == "/s/mine/artifacts/a.safetensors"
    assert found["copy it"].strip() == "python -m study.best /s/mine --certified --export shipped"
    assert not {"smallest certified", "copy it", "choose a model"} & set(steps())


def test_an_interrupted_study_says_how_it_goes_on():
    assert "--resume --name mine" in steps(exit_code=130)["go on"]
    assert "go on" not in steps(exit_code=1)


def test_remarks_and_the_headline_fit_a_terminal_and_are_whole():
    text = as_text(result(remarks=(LONG,), headline=LONG))
    assert max(map(len, text.splitlines())) <= 80
    assert text.split().count("nearly") == 12
    found = as_data(result(remarks=(LONG,), headline="So.", ships="a"))
    assert found["remarks"] == [LONG]
    assert (found["headline"], found["smallest_certified"]) == ("So.", "a")
