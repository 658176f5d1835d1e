import numpy as np
from matplotlib.figure import Figure

from modeling_pseldnet import Events
from modeling_pseldnet.tools.plots import plot_events


def test_every_class_has_its_name_within_the_picture(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **more: (drawn.append(figure), save(figure, *args, **more))
    )
    names = [f"_{number} $ and $" for number in range(48)]
    frames = np.arange(len(names))
    events = Events(frame=frames, class_id=frames, track=0 * frames, azimuth=0.0 * frames, elevation=0.0 * frames)
    plot_events(events, dict(enumerate(names)), tmp_path / "events.png")
    (figure,) = drawn
    (legend,) = figure.legends
    assert [text.get_text().strip().replace("\\", "") for text in legend.get_texts()] == names
    box = legend.get_window_extent()
    assert box.y0 >= 0
    assert box.x1 <= figure.bbox.width
    assert not any(axes.texts for axes in figure.axes)
