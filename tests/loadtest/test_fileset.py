"""The file set is SPECweb99's: names, sizes, shares, and bytes that tell where they come from."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from loadtest.fileset import CLASSES, FileSet, FileSetError, directories_for, size_of, zipf

MIB = 2**20


@pytest.mark.parametrize(
    ("load", "directories"), [(10, 31), (50, 57), (100, 90), (200, 156), (500, 352), (1000, 680)]
)
def test_the_load_decides_about_the_number_of_directories(load: int, directories: int) -> None:
    assert directories_for(load) == directories


def test_a_directory_has_36_files_of_5_119_484_bytes() -> None:
    files = FileSet(Path("/nowhere"), 0)
    assert files.size == 25 * 5_119_484
    names = list(files.names())
    assert len(names) == 25 * 36
    assert names[0] == "file_set/dir00000/class0_0"
    assert names[-1] == "file_set/dir00024/class3_8"


def test_sizes_are_truncated_tenths() -> None:
    assert [size_of(0, number) for number in range(9)] == [
        102, 204, 307, 409, 512, 614, 716, 819, 921,
    ]  # fmt: skip
    assert [size_of(kind, 8) for kind in range(4)] == [921, 9216, 92_160, 921_600]


def test_the_mean_answer_is_that_of_the_kit() -> None:
    assert round(FileSet(Path("/nowhere"), 10).mean_reply()) == 14_727


def test_the_mean_answer_of_the_papers_clients_is_larger() -> None:
    assert round(FileSet(Path("/nowhere"), 10, papers=True).mean_reply()) == 15_206


def drawn(files: FileSet, count: int = 40_000) -> Counter[str]:
    numbers = random.Random(5)
    return Counter(files.draw(numbers) for _ in range(count))


def test_files_are_drawn_by_class_by_popularity_and_by_directory() -> None:
    names = drawn(FileSet(Path("/nowhere"), 10))
    total = names.total()
    classes, files, directories = Counter[int](), Counter[int](), Counter[int]()
    for name, count in names.items():
        classes[int(name[-3])] += count
        files[int(name[-1])] += count
        directories[int(name[12:17])] += count
    for kind, share in enumerate(CLASSES):
        assert classes[kind] / total == pytest.approx(share, abs=0.01)
    assert [number for number, _ in files.most_common(4)] == [4, 3, 5, 2]
    assert files[4] / total == pytest.approx(0.353, abs=0.01)
    assert files[0] / total == pytest.approx(0.039, abs=0.01)
    for directory, share in enumerate(zipf(31)):
        assert directories[directory] / total == pytest.approx(share, abs=0.01)


def test_the_papers_clients_never_ask_for_the_least_popular_file() -> None:
    assert not any(name.endswith("_0") for name in drawn(FileSet(Path("/x"), 10, papers=True)))


def test_the_same_seed_draws_the_same_files() -> None:
    files = FileSet(Path("/nowhere"), 10)
    one, other = random.Random(3), random.Random(3)
    assert [files.draw(one) for _ in range(50)] == [files.draw(other) for _ in range(50)]


# -- the bytes -----------------------------------------------------------------------------------


def test_a_file_names_itself_in_its_first_line_and_all_along() -> None:
    name = "file_set/dir00003/class2_4"
    content = FileSet(Path("/nowhere"), 10).content(name)
    assert len(content) == 51_200
    head, _, rest = content.partition(b"\n")
    assert head == b"    51200 file_set/dir00003/class2_4"
    assert rest[::4096].decode() == name[: len(rest[::4096])]
    assert all(rest[at] == 10 for at in range(63, len(rest), 64))
    noise = bytes(rest[at] for at in range(len(rest)) if at % 64 != 63)
    assert min(noise) == 33
    assert max(noise) == 124


def test_every_file_has_the_size_that_its_name_says() -> None:
    files = FileSet(Path("/nowhere"), 10)
    for kind in range(4):
        for number in range(9):
            content = files.content(f"file_set/dir00030/class{kind}_{number}")
            assert len(content) == size_of(kind, number)


def test_no_two_files_are_alike_nor_two_seeds() -> None:
    files, others = FileSet(Path("/x"), 10), FileSet(Path("/x"), 10, seed=1)
    one, other = "file_set/dir00001/class1_1", "file_set/dir00002/class1_1"
    assert files.content(one)[40:] != files.content(other)[40:]
    assert files.content(one)[40:] != others.content(one)[40:]


def test_an_answer_is_verified_without_a_disk() -> None:
    files = FileSet(Path("/nowhere"), 10)
    name = "file_set/dir00001/class1_1"
    content = files.content(name)
    assert files.verify(name, content)
    assert not files.verify(name, content[:-1])
    assert not files.verify(name, content[:-1] + b"!")
    assert not files.verify("file_set/dir00002/class1_1", content)
    assert not files.verify("file_set/dir00031/class1_1", content)


@pytest.mark.parametrize(
    "name",
    ["", "index.html", "file_set/dir00031/class0_0", "file_set/dir00000/class4_0",
     "file_set/dir00000/class0_9", "/file_set/dir00000/class0_0"],
)  # fmt: skip
def test_a_name_of_no_file_is_a_key_error(name: str) -> None:
    with pytest.raises(KeyError):
        FileSet(Path("/nowhere"), 10).content(name)


def test_a_load_below_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not -1"):
        FileSet(Path("/nowhere"), -1)


# -- writing it ----------------------------------------------------------------------------------


class Small(FileSet):
    """A file set of two directories, which is written in no time."""

    def __init__(self, root: Path, load: int = 0, *, seed: int = 0) -> None:
        super().__init__(root, load, seed=seed)
        self.directories = 2


def test_what_is_written_is_what_the_names_say(tmp_path: Path) -> None:
    files = Small(tmp_path / "new" / "root")
    sizes: list[int] = []
    assert not files.written
    files.write(sizes.append)
    assert files.written
    assert sum(sizes) == files.size == 2 * 5_119_484
    for name in files.names():
        assert files.verify(name, (files.root / name).read_bytes())


def test_a_set_that_is_there_is_not_written_again(tmp_path: Path) -> None:
    Small(tmp_path).write()
    sizes: list[int] = []
    Small(tmp_path).write(sizes.append)
    assert not sizes


def test_a_set_of_another_load_or_seed_is_another_set(tmp_path: Path) -> None:
    Small(tmp_path).write()
    assert not Small(tmp_path, 7).written
    assert not Small(tmp_path, seed=1).written


def test_a_set_half_written_is_written_again(tmp_path: Path) -> None:
    files = Small(tmp_path)

    def stop(size: int) -> None:
        raise KeyboardInterrupt

    Small(tmp_path, seed=1).write()
    with pytest.raises(KeyboardInterrupt):
        files.write(stop)
    assert not files.written
    assert not Small(tmp_path, seed=1).written
    files.write()
    assert files.written
    name = "file_set/dir00001/class3_8"
    assert files.verify(name, (tmp_path / name).read_bytes())


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_without_room_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * MIB, 95 * MIB, 5 * MIB))
    with pytest.raises(FileSetError, match=r"needs 10 MiB more in .*, where 5 MiB are free"):
        Small(tmp_path).write()
    assert not list(tmp_path.iterdir())


def test_files_that_are_there_need_no_more_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Small(tmp_path, seed=1).write()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(100 * MIB, 95 * MIB, 5 * MIB))
    Small(tmp_path).write()
    assert Small(tmp_path).written
