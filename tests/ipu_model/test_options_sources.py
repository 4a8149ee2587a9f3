"""Options from files of setter calls, from JSON, and from POPTORCH_DEFAULT_OPTIONS."""

from pathlib import Path
from typing import Any, Callable

import pytest

from app.ipu_model import poptorch
from app.ipu_model.poptorch import Options
from app.ipu_model.poptorch.enums import ConnectionType, OutputMode
from app.ipu_model.poptorch.options import ConfigFileError

FILE = """
# a comment
deviceIterations(2)

  Training.gradientAccumulation(3)   # a comment beside a call
setExecutionStrategy(poptorch.ShardedExecution())
outputMode(poptorch.OutputMode.Sum)
_Popart.set("autoRecomputation", 3)
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    """A function that writes a configuration file and returns its path."""

    def write_file(text: str) -> str:
        path = tmp_path / "run.conf"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_file


def test_file_calls_its_setters(write: Callable[[str], str]) -> None:
    options = Options()
    assert options.loadFromFile(write(FILE)) is options
    assert options.device_iterations == 2
    assert options.Training.gradient_accumulation == 3
    assert options.output_mode == OutputMode.Sum
    assert isinstance(options._execution_strategy, poptorch.ShardedExecution)
    assert options._Popart.options["autoRecomputation"] == 3


def test_second_file_overrides_only_what_it_names(write: Callable[[str], str]) -> None:
    options = Options().loadFromFile(write("deviceIterations(2)\nreplicationFactor(2)"))
    options.loadFromFile(write("deviceIterations(1)"))
    assert (options.device_iterations, options.replication_factor) == (1, 2)


def test_empty_file_changes_nothing(write: Callable[[str], str]) -> None:
    assert repr(Options().loadFromFile(write("\n# nothing\n"))) == repr(Options())


def test_syntax_error_names_the_call_counted_without_blanks_and_comments(
    write: Callable[[str], str],
) -> None:
    path = write("# first\n\ndeviceIterations(1)\noutputMode(poptorch.OutputMode.All")
    with pytest.raises(ConfigFileError) as error:
        Options().loadFromFile(path)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("SyntaxError at line 2 of run.conf: ")
    assert lines[1].startswith("> options.outputMode(poptorch.OutputMode.All")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("deviceIteration(2)", AttributeError),
        ("deviceIterations('2')", AssertionError),
        ("deviceIterations(1 / 0)", ZeroDivisionError),
        ("deviceIterations(x)", NameError),
    ],
)
def test_other_errors_of_a_file_pass_unchanged(
    text: str, expected: Any, write: Callable[[str], str]
) -> None:
    with pytest.raises(expected):
        Options().loadFromFile(write(text))


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Options().loadFromFile(str(tmp_path / "no.conf"))


def test_json_calls_setters_of_sections_with_numbers_lists_and_enumerations() -> None:
    options = Options()
    options.from_json(
        '{"deviceIterations": 2, "Training.gradientAccumulation": 4, "logDir": "a.b",'
        ' "Precision.enableFloatingPointExceptions": true,'
        ' "connectionType": "ConnectionType.OnDemand",'
        ' "outputMode": ["OutputMode.EveryN", 2],'
        ' "_Popart.set": ["saveInitializersToFile", "my_file.onnx"]}'
    )
    assert options.device_iterations == 2
    assert options.Training.gradient_accumulation == 4
    assert options.log_dir == "a.b"
    assert options._Popart.value("enableFloatingPointChecks") is True
    assert options.connection_type == ConnectionType.OnDemand
    assert (options.output_mode, options.output_return_period) == (OutputMode.EveryN, 2)
    assert options._Popart.options["saveInitializersToFile"] == "my_file.onnx"


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"deviceIteration": 2}', AttributeError),
        ('{"Training.deviceIterations": 2}', AttributeError),
        ('{"deviceIterations": "2"}', AssertionError),
        ('{"connectionType": "ConnectionType.Sometimes"}', AssertionError),
        ('{"deviceIterations": ', ValueError),
        ("[1]", ValueError),
    ],
)
def test_json_that_names_no_setter_or_a_wrong_value_is_refused(text: str, expected: Any) -> None:
    with pytest.raises(expected):
        Options().from_json(text)


def test_default_options_of_the_environment_apply_to_every_new_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POPTORCH_DEFAULT_OPTIONS", '{"Training.gradientAccumulation": 4}')
    defaults = Options()
    monkeypatch.delenv("POPTORCH_DEFAULT_OPTIONS")
    expected = Options()
    assert repr(defaults) != repr(expected)
    expected.Training.gradientAccumulation(4)
    assert repr(defaults) == repr(expected)
