"""The plot is well-formed, holds every point where it belongs, and escapes what it is given."""

from xml.etree import ElementTree

from harness.gate.quality.plot import HEIGHT, WIDTH, Line, Panel, svg

SVG = "{http://www.w3.org/2000/svg}"


def drawing(*lines: Line) -> ElementTree.Element:
    return ElementTree.fromstring(svg([Panel("a < b", lines), Panel("second", lines)], "seconds"))


def test_corners_of_the_axes_are_where_the_extreme_points_are() -> None:
    root = drawing(Line("thin", [(1, 0), (10, 0.5), (100, 1)]))
    places = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter(f"{SVG}circle")]
    assert places[:3] == [(0, HEIGHT), (WIDTH / 2, HEIGHT / 2), (WIDTH, 0)]


def test_titles_labels_and_legend_are_there_once_a_panel() -> None:
    root = drawing(Line("ours & theirs", [(1, 0.1), (3, 0.2)], strong=True))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts.count("a < b") == texts.count("second") == texts.count("ours & theirs") == 1
    assert texts.count("seconds") == 2
    assert not list(root.iter(f"{SVG}circle")), "a strong line is a curve without dots"


def test_a_single_point_has_an_axis_too() -> None:
    assert drawing(Line("one", [(2.0, 0.5)])) is not None
