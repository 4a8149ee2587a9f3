"""What stands in files is what the programs that write them would write now."""

from benchmarks import paper_runs, record


def test_the_constants_on_the_page_are_those_of_the_code() -> None:
    page = record.PAGE.read_text(encoding="utf-8")
    assert record.replaced(page, "calibration", record.constants_block()) == page


def test_a_block_is_replaced_between_its_marks_alone() -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert record.replaced(page, "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"


def test_the_paper_s_run_files_are_up_to_date() -> None:
    files = paper_runs.run_files()
    assert len(files) == 31
    for name, text in files.items():
        assert (paper_runs.FOLDER / name).read_text(encoding="utf-8") == text, name
    assert paper_runs.main(["--check"]) == 0
