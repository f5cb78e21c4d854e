"""A user's own plugins: loaded once, named in every error, sent to workers as text."""

import itertools
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from compression.inits import INITS
from compression.registry import InvalidSetting
from study import plugins
from study.config import load_config
from study.plugins import PluginFile, load_entry_points

NUMBER = itertools.count()


def source_of(name):
    return f'''
"""A user's init."""
from compression.inits import INITS
from compression.inits.zeros import Zeros
from compression.registry import IntRange, knob


@INITS.register("{name}")
class Mine(Zeros):
    """Zeros under another name."""

    spread: int = knob(1, IntRange(1, 9), search=IntRange(1, 9))
'''


@pytest.fixture
def fresh(monkeypatch):
    """A name that no test took yet; the registry is as before afterwards."""
    monkeypatch.setattr(INITS, "_plugins", dict(INITS._plugins))
    return f"mine_{next(NUMBER)}"


def test_a_config_names_plugin_files_beside_it(tmp_path, fresh):
    (tmp_path / "mine.py").write_text(source_of(fresh))
    text = f"plugins: [mine.py]\ntask: digits\nspace: {{init: [zeros, {fresh}]}}"
    (tmp_path / "study.yaml").write_text(text)
    config = load_config(tmp_path / "study.yaml")
    assert fresh in INITS
    assert f"{fresh}.spread" in config.search_space().params
    (file,) = config.plugins
    assert config.plugin_hashes()["mine.py"] == file.sha256
    assert pickle.loads(pickle.dumps(file)) == file
    # Loading what is loaded changes nothing, wherever it comes from.
    file.load()
    assert load_config(tmp_path / "study.yaml").to_json() == config.to_json()


def test_order_in_the_file_does_not_matter(tmp_path, fresh):
    (tmp_path / "mine.py").write_text(source_of(fresh))
    (tmp_path / "study.yaml").write_text(
        f"space: {{init: {fresh}}}\ntask: digits\nplugins: [mine.py]"
    )
    assert load_config(tmp_path / "study.yaml").space.init[0].name == fresh


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\ny = (", r"plugin file bad.py, line 2: SyntaxError"),
        ("\n\nimport nothing_of_this_name", r"bad.py, line 3: ModuleNotFoundError"),
        ("def f():\n    return 1 / 0\nf()", r"bad.py, line 2: ZeroDivisionError"),
        (source_of("zeros"), r"bad.py, line 8: InvalidSetting: init 'zeros' is registered twice"),
    ],
)
def test_a_file_that_raises_is_named_with_its_line(source, expected):
    file = PluginFile("bad.py", source)
    for _ in range(2):  # the second time too: an error is not a success the next time
        with pytest.raises(InvalidSetting, match=expected):
            file.load()


def test_files_that_cannot_be_read_or_told_apart(tmp_path):
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\xff")
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(f"x = '{folder}'")
    (tmp_path / "study.yaml").write_text(
        "task: digits\nplugins: [missing.py, binary.py, 3, a/same.py]"
    )
    with pytest.raises(InvalidSetting) as caught:
        load_config(tmp_path / "study.yaml")
    missing, binary, number = caught.value.errors
    assert "study.yaml:2: plugins: cannot read plugin file" in missing
    assert "binary.py" in binary
    assert "expected the path of a Python file, got 3" in number
    with pytest.raises(InvalidSetting, match="two files named same.py"):
        load_config(tmp_path / "study.yaml", {"plugins": "[a/same.py, b/same.py]"})


def test_another_process_loads_the_file_from_its_text(fresh):
    code = (
        "import pickle, sys; from compression.inits import INITS;"
        "pickle.load(sys.stdin.buffer).load(); print(INITS.build(sys.argv[1], {'spread': 3}))"
    )
    file = PluginFile("mine.py", source_of(fresh))
    done = subprocess.run(
        [sys.executable, "-c", code, fresh], input=pickle.dumps(file), capture_output=True
    )
    assert done.stdout.decode().strip() == "Mine(spread=3)", done.stderr.decode()


def test_entry_points(monkeypatch):
    good = EntryPoint("good", "json:dumps", plugins.GROUP)
    bad = EntryPoint("bad", "nothing_of_this_name:x", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [good])
    assert load_entry_points() == {"good": "unknown package"}
    monkeypatch.setattr(plugins, "entry_points", lambda group: [good, bad])
    with pytest.raises(InvalidSetting, match="plugin 'bad' of unknown package .*ModuleNotFound"):
        load_entry_points()
