"""The tables of ops are those of today, and are made of what each op says of itself."""

from __future__ import annotations

import pytest

import ops_table


@pytest.mark.parametrize("page", ops_table.PAGES, ids=lambda page: page.name)
def test_a_page_has_the_table_of_today(page):
    assert ops_table.current(page) == ops_table.PAGES[page]().strip(), "run make table"


def test_every_op_is_in_both():
    for name in ops_table.specs():
        family, op = name.split(".")
        assert f"| [`{op}`](docs/{family}/{op}.md) |" in ops_table.table()
        assert f"| [`{name}`]({family}/{op}.md) |" in ops_table.contract()


def test_that_no_device_has_run_the_kernels_is_said_once():
    """Once for all ops in the contract's table; README says it too, where one looks first."""
    pages = [*ops_table.ROOT.glob("*.md"), *ops_table.ROOT.glob("docs/**/*.md")]
    saying = [
        page.name for page in pages if "run on a device" in page.read_text() or "no device has" in page.read_text()
    ]
    assert sorted(saying) == ["CHANGELOG.md", "README.md", "contract.md"]
    assert ops_table.contract().count("run on a device") == 1


def test_the_front_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Op\n\nWhat.\n\n**In place of** `torch.x`,\nits like. **New:** this;\nthat.\n\n```python\n")
    assert ops_table.front(page) == ("`torch.x`, its like", "this; that")
    page.write_text("# Op\n\n**In place of** `torch.x`.\n")
    with pytest.raises(AssertionError, match=r"page\.md must have a paragraph"):
        ops_table.front(page)
    page.write_text("# Op\n\n**In place of** `torch.x`. **New:** this\n\nand more.\n")
    with pytest.raises(AssertionError, match="one paragraph"):
        ops_table.front(page)


def test_the_speed_is_that_of_the_last_pass_on_all_threads():
    def entry(
        case: str, step: str, threads: int, ratio: float | None, peer: str = "torch", device: str = "cpu"
    ) -> dict:
        names = ("op", "case", "step", "threads", "ratio_to_best", "best_peer", "device")
        return dict(zip(names, ("nms", case, step, threads, ratio, peer, device), strict=True))

    tables = [
        entry("small", "forward", 1, 50.0),
        entry("small", "forward", 2, 40.0),
        entry("small", "forward+backward", 2, 3.04, "torch, torch.compile"),
        entry("large", "forward", 2, 12.6),
        entry("large", "forward", 2, 99.0, device="cuda"),
        entry("alone", "forward", 2, None),
    ]
    assert ops_table.speed({"tables": tables}, "nms") == "3.0 to 13x (torch, torch.compile)"
    assert ops_table.speed({"tables": tables[3:4]}, "nms") == "13x (torch)"
    assert ops_table.speed({"tables": tables}, "roi_align") == "not measured"
