from dataclasses import replace

import numpy as np
import pyroomacoustics
import pytest
import soundfile
from pyroomacoustics.directivities import DirectionVector, FigureEight, Omnidirectional
from scipy.signal import butter, sosfilt

from datasets_scripts.scenes.arrays import diffuse_field, foa_gains
from datasets_scripts.scenes.measured_rooms import digest_of_responses, is_same_digest, read_measured_rooms
from datasets_scripts.scenes.recipe import RoomRecipe
from datasets_scripts.scenes.rooms import (
    SimulatedRoom,
    decay_time,
    draw_room,
    pressure_energy,
    turned,
)
from modeling_pseldnet.events import direction_to_vector, vector_to_direction
from tests.helpers import b_format


RATE = 24000


def room_of(seed=0, **recipe):
    return draw_room(RoomRecipe(**recipe), RATE, (seed,))


def in_room(room, points):
    return room.array_position + turned(points, room.array_yaw)


@pytest.mark.parametrize("asked", [0.2, 0.6, 2.0])
@pytest.mark.parametrize("array", ["foa", "mic"])
def test_diffuse_tails_have_the_asked_rt60(asked, array):
    room = room_of(rt60=(asked, asked), number=1, positions=3, paths=0, size=((5, 6), (4, 5), (2.5, 3)))
    for path in range(3):
        response = room.responses(path, array)[0].astype(float)
        assert decay_time(response[0] ** 2, RATE) == pytest.approx(asked, rel=0.1)


@pytest.mark.parametrize("asked", [0.2, 0.3])
def test_deep_image_sources_have_the_asked_rt60(asked):
    room = room_of(rt60=(asked, asked), late="images", positions=2, paths=0, size=((4, 5), (3.5, 4.5), (2.5, 3)))
    for path in range(2):
        response = room.responses(path)[0].astype(float)
        assert decay_time(response[0] ** 2, RATE) == pytest.approx(asked, rel=0.15)


def test_the_diffuse_tail_goes_on_where_the_image_sources_end():
    """On average over rooms, levels on both sides of the transition differ only by the decay between them."""
    steps = []
    for seed in range(12):
        room = room_of(seed, rt60=(0.8, 0.8), positions=1, paths=0)
        energy = pressure_energy_by_time(room.responses(0))
        before, after = energy[int(0.035 * RATE) : int(0.05 * RATE)], energy[int(0.065 * RATE) : int(0.08 * RATE)]
        steps.append(10 * np.log10(before.mean() / after.mean()) - 60 * 0.03 / 0.8)
    assert np.mean(steps) == pytest.approx(0, abs=1.5)


def test_nothing_is_heard_before_the_direct_sound_in_a_hall():
    size, distance = ((30, 30), (20, 20), (8, 8)), (18, 20)
    hall = room_of(size=size, distance=distance, elevation=(-9, 9), rt60=(1, 1), positions=1, paths=0)
    response, direct = hall.responses(0)[0], hall.responses(0, direct_only=True)[0]
    begin = np.flatnonzero(direct[0])[0]
    assert not response[:, :begin].any()
    assert decay_time(response[0].astype(float) ** 2, RATE) == pytest.approx(1, rel=0.1)


def pressure_energy_by_time(responses):
    return responses[0, 0].astype(float) ** 2


@pytest.fixture
def without_high_pass():
    """Keep pyroomacoustics from filtering its responses."""
    before = pyroomacoustics.constants.get("rir_hpf_enable")
    pyroomacoustics.constants.set("rir_hpf_enable", False)
    yield
    pyroomacoustics.constants.set("rir_hpf_enable", before)


@pytest.mark.usefixtures("without_high_pass")
def test_early_responses_equal_figures_of_eight_of_pyroomacoustics():
    room = room_of(rt60=(0.4, 0.4), late="images", positions=1, paths=0, size=((4, 5), (3.5, 4.5), (2.5, 3)))
    room = replace(room, array_yaw=0.0, rt60=0.1, seed=(1,))
    gain = room._reflection_gain
    simulated = pyroomacoustics.ShoeBox(
        room.size, fs=RATE, materials=pyroomacoustics.Material(1 - gain**2), max_order=25
    )
    simulated.add_source(in_room(room, room.paths[0][0]))
    capsules = [Omnidirectional()]
    capsules += [FigureEight(DirectionVector(azimuth=a, colatitude=c)) for a, c in ((90, 90), (0, 0), (0, 90))]
    simulated.add_microphone_array(np.tile(room.array_position[:, None], 4), directivity=capsules)
    simulated.compute_rir()
    samples = int(0.09 * RATE)
    expected = np.stack([simulated.rir[channel][0][40 : 40 + samples] for channel in range(4)])
    expected = sosfilt(butter(2, 20, "highpass", fs=RATE, output="sos"), expected)
    assert room.responses(0)[0, :, :samples] == pytest.approx(expected, abs=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("seed", range(5))
def test_the_direct_sound_comes_from_the_source_with_the_delay_of_its_distance(seed):
    room = room_of(seed)
    for path in (0, len(room.paths) - 1):
        position = room.paths[path][0]
        response = room.responses(path, direct_only=True)[0]
        w, y, z, x = response @ response[0]
        distance = np.linalg.norm(position)
        assert np.stack([x, y, z]) / w == pytest.approx(position / distance, abs=1e-4)
        assert np.abs(response[0]).argmax() == pytest.approx(distance / 343 * RATE, abs=1)


def test_sources_keep_their_distances_in_every_room():
    recipe = RoomRecipe()
    for seed in range(20):
        room = draw_room(recipe, RATE, (seed,))
        assert len(room.choices(moving=False)) == recipe.positions
        assert len(room.choices(moving=True)) == recipe.paths
        points = np.concatenate(room.paths)
        distance = np.linalg.norm(points, axis=1)
        assert distance.min() >= recipe.distance[0] - 1e-9
        assert distance.max() <= recipe.distance[1] + 1e-9
        inside = in_room(room, points)
        assert (inside >= recipe.wall_margin - 1e-9).all()
        assert (inside <= room.size - recipe.wall_margin + 1e-9).all()
        for path in room.choices(moving=True):
            steps = np.linalg.norm(np.diff(room.paths[path], axis=0), axis=1)
            assert steps.max() <= recipe.path_step + 1e-6


def test_sources_may_all_be_at_one_distance():
    points = np.concatenate(room_of(distance=(2, 2)).paths)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 2, atol=1e-3)


def test_points_of_a_path_share_their_tail_and_paths_do_not():
    room = room_of(paths=2, positions=0)
    late = slice(int(0.1 * RATE), None)
    first, second = room.responses(0), room.responses(1)
    assert np.array_equal(first[0, :, late], first[-1, :, late])
    assert not np.allclose(first[0, :, late], second[0, :, late])


def test_a_room_is_the_same_each_time_it_is_drawn():
    for array in ("foa", "mic"):
        assert np.array_equal(room_of(3).responses(5, array), room_of(3).responses(5, array))


def test_an_impossible_rt60_is_named():
    with pytest.raises(ValueError, match=r"RT60 of 0\.1 s is impossible in a room of 20\.0 × 20\.0 × 9\.0 m.*0\.17 s"):
        room_of(rt60=(0.05, 0.1), size=((20, 20), (20, 20), (9, 9)))


def test_a_room_without_place_for_sources_is_named():
    with pytest.raises(ValueError, match="no place for sources 5 to 6 m"):
        room_of(distance=(5.0, 6.0), size=((3, 3), (3, 3), (2.5, 2.5)))


def test_a_room_of_too_many_image_sources_is_refused_when_it_is_drawn():
    with pytest.raises(ValueError, match=r"set rooms\.late to 'diffuse'"):
        room_of(late="images", rt60=(2.0, 2.0))


def test_decay_time_of_an_exponential_is_its_rt60():
    seconds = np.arange(RATE) / RATE
    assert decay_time(10 ** (-6 * seconds / 0.7), RATE) == pytest.approx(0.7, rel=1e-3)


def test_a_response_of_a_single_reflection_has_no_rt60():
    energy = np.zeros(2400)
    energy[[100, 400]] = 1, 0.25
    assert decay_time(energy, RATE) == 0


def measured_response(azimuth, elevation, seed):
    """A response (4, samples) of direct sound from a direction and a diffuse tail with an RT60 of 0.3 s."""
    tail = diffuse_field("foa", np.random.default_rng(seed), 9600, RATE) * 10 ** (-3 * np.arange(9600) / 0.3 / RATE)
    response = 0.05 * tail
    response[:, :240] = 0
    response[:, 200] = foa_gains(direction_to_vector([azimuth], [elevation]))[:, 0]
    return response.astype(np.float32)


MEASURED = [(30, 10, "hall", ""), (-100, -20, "hall", "walk"), (-90, -20, "hall", "walk"), (170, 0, "studio", "")]


@pytest.fixture(params=["ambix", "fuma"])
def table_of_responses(request, tmp_path):
    lines = ["file,azimuth,elevation,distance,room,path"]
    for number, (azimuth, elevation, room, path) in enumerate(MEASURED):
        response = measured_response(azimuth, elevation, number)
        if request.param == "fuma":
            response = response[[0, 3, 1, 2]] * np.float32([[0.5**0.5], [1], [1], [1]])
        soundfile.write(tmp_path / f"{number}.wav", response.T, RATE, subtype="FLOAT")
        lines.append(f"{number}.wav,{azimuth},{elevation},1.5,{room},{path}")
    (tmp_path / "responses.csv").write_text("\n".join(lines) + "\n")
    return tmp_path, request.param


def test_measured_responses_come_from_a_table(table_of_responses):
    folder, convention = table_of_responses
    hall, studio = read_measured_rooms(folder, RATE, convention)
    assert (hall.name, studio.name) == ("hall", "studio")
    assert (hall.choices(moving=False), hall.choices(moving=True)) == ([0], [1])
    assert np.linalg.norm(hall.paths[1], axis=1) == pytest.approx(1.5)
    assert vector_to_direction(hall.paths[1])[0] == pytest.approx([-100, -90])
    assert hall.responses(1)[1] == pytest.approx(measured_response(-90, -20, 2), abs=1e-6)
    assert studio.rt60 == pytest.approx(0.3, rel=0.2)
    direct = studio.responses(0, direct_only=True)
    assert pressure_energy(direct, "foa") == pytest.approx(1, rel=0.1)


def test_measured_responses_are_resampled(table_of_responses):
    folder, convention = table_of_responses
    hall, _ = read_measured_rooms(folder, RATE // 2, convention)
    assert hall.responses(0).shape == (1, 4, 4800)


def test_measured_responses_come_from_sofa_files(tmp_path):
    h5py = pytest.importorskip("h5py")
    directions = [(30.0, 10.0), (-100.0, -20.0)]
    with h5py.File(tmp_path / "room.sofa", "w") as sofa:
        sofa["Data.IR"] = np.stack([measured_response(*direction, 0) for direction in directions]).astype(float)
        sofa["Data.SamplingRate"] = [float(RATE)]
        # The listener is not at the origin and faces left of the room's x axis.
        sofa["ListenerPosition"] = [[1.0, 2.0, 1.5]]
        sofa["ListenerView"] = [[0.0, 1.0, 0.0]]
        offsets = 2.0 * direction_to_vector(*np.add(directions, [90, 0]).T)
        sofa["SourcePosition"] = np.add(offsets, [1.0, 2.0, 1.5])
        for name in ("ListenerPosition", "ListenerView", "SourcePosition"):
            sofa[name].attrs["Type"] = "cartesian"
    (room,) = read_measured_rooms(tmp_path, RATE)
    azimuth, elevation = vector_to_direction(np.concatenate(room.paths))
    assert azimuth == pytest.approx([30, -100])
    assert elevation == pytest.approx([10, -20])
    assert np.linalg.norm(room.paths[0]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("position", "attributes"),
    [
        ([45.0, 30.0, 1.2], {"Type": b"spherical"}),
        ([45.0, 30.0, 1.2], {"Type": [b"spherical"], "Units": [b"degree, degree, metre"]}),
        ([np.pi / 4, np.pi / 6, 1.2], {"Type": "Spherical", "Units": "radian, radian, metre"}),
    ],
)
def test_spherical_sofa_positions_are_in_the_units_that_they_tell(tmp_path, position, attributes):
    h5py = pytest.importorskip("h5py")
    write_sofa(tmp_path / "room.sofa", measured_response(45, 30, 0)[None], distance=1.0)
    with h5py.File(tmp_path / "room.sofa", "a") as sofa:
        sofa["SourcePosition"][...] = [position]
        sofa["SourcePosition"].attrs.update(attributes)
    (room,) = read_measured_rooms(tmp_path, RATE)
    assert room.paths[0][0] == pytest.approx(1.2 * direction_to_vector(45, 30))


@pytest.mark.parametrize(
    ("kind", "view", "up", "seen"),
    [
        # Looking up; lying on the right side; looking to the left, in angles; looking half up.
        ("cartesian", [0, 0, 1], [-1, 0, 0], [3, 2, -1]),
        ("cartesian", [1, 0, 0], [0, -1, 0], [1, 3, -2]),
        ("spherical", [90, 0, 1], [0, 90, 1], [2, -1, 3]),
        ("cartesian", [2, 0, 1], [0, 0, 1], [5**0.5, 2, 5**0.5]),
    ],
)
def test_sofa_listeners_may_look_anywhere(tmp_path, kind, view, up, seen):
    write_sofa(tmp_path / "room.sofa", measured_response(45, 30, 0)[None], distance=1.0)
    with pytest.importorskip("h5py").File(tmp_path / "room.sofa", "a") as sofa:
        sofa["SourcePosition"][...] = [[1, 2, 3]]
        sofa["ListenerView"], sofa["ListenerUp"] = [view], [up]
        sofa["ListenerView"].attrs["Type"] = kind
    (room,) = read_measured_rooms(tmp_path, RATE)
    assert room.paths[0][0] == pytest.approx(seen)


def test_sofa_responses_come_with_their_delay(tmp_path):
    response = measured_response(45, 30, 0)
    write_sofa(tmp_path / "room.sofa", np.stack([response, response]), distance=1.0)
    with pytest.importorskip("h5py").File(tmp_path / "room.sofa", "a") as sofa:
        sofa["Data.Delay"] = np.array([[0.0] * 4, [24.0] * 4])
    (room,) = read_measured_rooms(tmp_path, RATE)
    first, second = (room.responses(path)[0] for path in range(2))
    np.testing.assert_array_equal(second[:, 24:], first[:, :-24])
    assert not second[:, :24].any()


def test_hidden_files_are_no_responses(tmp_path):
    write_sofa(tmp_path / "room.sofa", measured_response(45, 30, 0)[None], distance=1.0)
    digest = digest_of_responses(tmp_path)
    (tmp_path / "__MACOSX").mkdir()
    for name in (".DS_Store", "._room.sofa", "__MACOSX/room.sofa"):
        (tmp_path / name).write_bytes(b"of a Mac")
    assert [room.name for room in read_measured_rooms(tmp_path, RATE)] == ["room"]
    assert digest_of_responses(tmp_path) == digest


def test_responses_in_a_linked_folder_count_in_the_digest(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "responses").mkdir()
    (tmp_path / "responses" / "room").symlink_to(tmp_path / "elsewhere")
    digests = set()
    for content in (b"", b"response", b"another"):
        (tmp_path / "elsewhere" / "front.wav").write_bytes(content)
        digests.add(digest_of_responses(tmp_path / "responses"))
    assert len(digests) == 3


def test_responses_of_other_bytes_have_another_digest_that_begins_as_in_earlier_versions(tmp_path):
    write_response(tmp_path, measured_response(0, 0, 0))
    before = digest_of_responses(tmp_path)
    write_response(tmp_path, measured_response(0, 0, 1))
    after = digest_of_responses(tmp_path)
    assert not is_same_digest(before, after)
    assert is_same_digest(before[:16], after)
    assert is_same_digest(after, after)
    assert is_same_digest(None, after)
    (tmp_path / "more.wav").touch()
    assert not is_same_digest(before[:16], digest_of_responses(tmp_path))


def write_sofa(file, samples, distance):
    """Write a SOFA file of responses (measurements, 4, samples), all from the same position in front."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w") as sofa:
        sofa["Data.IR"] = samples
        sofa["Data.SamplingRate"] = [float(RATE)]
        sofa["ListenerPosition"] = [[0.0, 0.0, 0.0]]
        sofa["SourcePosition"] = [[distance, 0.0, 0.0]]


def test_sofa_files_that_are_broken_or_have_no_responses_are_named(tmp_path):
    file = tmp_path / "room.sofa"
    write_sofa(file, np.zeros((0, 4, 100)), distance=1.0)
    with pytest.raises(ValueError, match=f"no measured responses in {tmp_path}"):
        read_measured_rooms(tmp_path, RATE)
    write_sofa(file, measured_response(0, 0, 0)[None], distance=0.0)
    with pytest.raises(
        ValueError, match=r"room.sofa, measurement 1: the distance of the source must be finite and above 0 m"
    ):
        read_measured_rooms(tmp_path, RATE)
    write_sofa(file, measured_response(0, 0, 0)[None], distance=1.0)
    with pytest.importorskip("h5py").File(file, "a") as sofa:
        sofa["SourcePosition"].attrs["Type"] = "spherical harmonics"
    with pytest.raises(ValueError, match=r"room.sofa: SourcePosition is of type spherical harmonics, expected cart"):
        read_measured_rooms(tmp_path, RATE)
    write_sofa(file, np.zeros((1, 3, 100)), distance=1.0)
    with pytest.raises(ValueError, match=r"room.sofa: Data.IR has shape \(1, 3, 100\)"):
        read_measured_rooms(tmp_path, RATE)
    for name, value, message in (
        ("Data.Delay", [[-1.0]], "Data.Delay must be between 0 and 1 s"),
        ("ListenerUp", [[1.0, 0.0, 0.0]], "ListenerView and ListenerUp must be non-zero and not parallel"),
    ):
        write_sofa(file, measured_response(0, 0, 0)[None], distance=1.0)
        with pytest.importorskip("h5py").File(file, "a") as sofa:
            sofa[name] = value
        with pytest.raises(ValueError, match=f"room.sofa: {message}"):
            read_measured_rooms(tmp_path, RATE)
    file.write_text("no HDF5")
    with pytest.raises(ValueError, match=r"room.sofa: .*signature not found"):
        read_measured_rooms(tmp_path, RATE)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,azimuth,elevation\n", "no column 'distance'"),
        ("file,azimuth,elevation,distance,room\nfour.wav,0,0,1,B\udcfcro\n", "responses.csv: .*decode"),
        ("file,azimuth,elevation,distance\nnone.wav,0,0,1\n", "line 2: .*none.wav"),
        ("file,azimuth,elevation,distance\nstereo.wav,0,0,1\n", "line 2: expected 4 channels"),
        ("file,azimuth,elevation,distance\nstereo.wav,left,0,1\n", "line 2: could not convert"),
        ("file,azimuth,elevation,distance\nfour.wav,nan,0,1\n", "line 2: expected 4 channels, an azimuth"),
        ("file,azimuth,elevation,distance\nfour.wav,30,120,1\n", "line 2: expected 4 channels, an azimuth, an elev"),
        (
            "file,azimuth,elevation,distance\nfuma.wav,0,0,1\n",
            "line 2: fuma.wav is marked as FuMa: set rooms",
        ),
        ("file,azimuth,elevation,distance\ncut.wav,0,0,1\n", "line 2: cut.wav: truncated"),
    ],
)
def test_errors_in_a_table_name_the_line(tmp_path, table, message):
    for name, channels in (("stereo", 2), ("four", 4)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros((100, channels)), RATE)
    (tmp_path / "fuma.wav").write_bytes(b_format(np.zeros((4, 100))))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "four.wav").read_bytes()[:-80])
    (tmp_path / "responses.csv").write_bytes(table.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_measured_rooms(tmp_path, RATE)


def test_a_folder_without_responses_is_named(tmp_path):
    with pytest.raises(ValueError, match="no measured responses in"):
        read_measured_rooms(tmp_path, RATE)
    (tmp_path / "responses.csv").write_text("file,azimuth,elevation,distance\n")
    with pytest.raises(ValueError, match="no measured responses in"):
        read_measured_rooms(tmp_path, RATE)


def write_response(folder, response, rate=RATE):
    """Write a folder with one response (4, samples) from 1.5 m in front."""
    soundfile.write(folder / "front.wav", response.T, rate, subtype="FLOAT")
    (folder / "responses.csv").write_text("file,azimuth,elevation,distance\nfront.wav,0,0,1.5\n")


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_responses_that_are_silent_or_not_finite_are_named(tmp_path, value):
    write_response(tmp_path, np.full((4, 480), value))
    with pytest.raises(ValueError, match=r"responses.csv, line 2: the response is silent, empty or not finite"):
        read_measured_rooms(tmp_path, RATE)


def test_responses_of_a_rate_that_no_audio_has_are_named(tmp_path):
    write_response(tmp_path, measured_response(0, 0, 0), rate=100)
    with pytest.raises(ValueError, match=r"responses.csv, line 2: front.wav: a sampling rate of 100 Hz"):
        read_measured_rooms(tmp_path, RATE)


def test_responses_that_begin_with_a_latency_are_refused_and_those_with_a_loud_reflection_are_not(tmp_path):
    response = measured_response(0, 0, 0)
    silence = np.zeros((4, RATE // 2), np.float32)
    write_response(tmp_path, np.concatenate([silence, response], axis=1))
    with pytest.raises(ValueError, match=r"line 2: the response starts 0\.50 s too late for a source at 1.5 m"):
        read_measured_rooms(tmp_path, RATE)
    response[:, 2600] = 3 * response[:, 200]
    write_response(tmp_path, response)
    assert read_measured_rooms(tmp_path, RATE)


def test_simulated_rooms_describe_themselves():
    room = room_of()
    assert isinstance(room, SimulatedRoom)
    assert room.describe()["rt60"] == pytest.approx(room.rt60, abs=1e-3)


@pytest.mark.parametrize("array", ["foa", "mic"])
def test_the_level_of_the_direct_sound_falls_six_decibels_a_doubling(array):
    room = room_of(rt60=(0.3, 0.3), positions=1, paths=0, size=((9, 9), (9, 9), (3, 3)))
    room = replace(room, paths=tuple(distance * np.array([[0.6, 0.8, 0.0]]) for distance in (0.5, 1, 2, 4)))
    levels = [
        10 * np.log10((room.responses(path, array, direct_only=True)[0, 0].astype(float) ** 2).sum())
        for path in range(4)
    ]
    # The capsules of an array are not all as far away as its centre.
    np.testing.assert_allclose(np.diff(levels), -20 * np.log10(2), atol=0.1 if array == "foa" else 0.6)
