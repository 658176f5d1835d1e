from datasets_scripts.scenes import plot
from datasets_scripts.scenes.recipe import EventRecipe, RoomRecipe, SceneRecipe
from datasets_scripts.scenes.scene_set import SceneSet
from datasets_scripts.scenes.sounds import Sound, SoundBank


RATE = 24000


def test_the_lines_of_all_layers_lie_in_the_row_of_their_class(monkeypatch):
    sounds = tuple(Sound(f"{c}/{n}.wav", c, f"{c}{n}", 0, RATE) for c in range(3) for n in range(9))
    rooms, events = RoomRecipe(number=1, positions=3, paths=0), EventRecipe(polyphony={6: 1}, moving=0, same_class=1.0)
    recipe = SceneRecipe(scene_seconds=20.0, rooms=rooms, events=events)
    scene_set = SceneSet(recipe, SoundBank("memory", ("bark", "bell", "door"), sounds, RATE, str))
    monkeypatch.setattr(plot, "_save", lambda figure, _: figure)
    figure = plot.plot_scene(scene_set, 0, None)
    axes = next(axes for axes in figure.axes if axes.get_title().startswith("events"))
    boxes = [bar.get_datalim(axes.transData) for bar in axes.collections]
    rows = sorted({event.class_id for event in scene_set.scene(0).events})
    lines = [(rows.index(event.class_id), event.track) for event in scene_set.scene(0).events]
    assert max(track for _, track in lines) == 5
    assert all(row - 0.5 < box.y0 < box.y1 < row + 0.5 for (row, _), box in zip(lines, boxes, strict=True))
