"""OpenAI's table of merges: damaged, or packed to fill the memory."""

import gzip
import os

import pytest

from vpjax.core import unpack
from vpjax.core.errors import UserError
from vpjax.models.text.tokenizer import MERGES, read_merges

TABLE = b"#version: 0.2\n" + b"".join(b"a%d b\n" % i for i in range(MERGES + 100))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("name", ["bpe.txt", "bpe.txt.gz"])
def test_a_table_is_read(tmp_path, name, end):
    text = TABLE.replace(b"\n", end)
    (tmp_path / name).write_bytes(gzip.compress(text, 1) if name.endswith("gz") else text)
    merges = read_merges(tmp_path / name)
    assert len(merges) == MERGES and merges[:2] == ["a0 b", "a1 b"]


def test_damage_is_a_sentence(tmp_path):
    whole, path = gzip.compress(TABLE, 1), tmp_path / "bpe.txt.gz"
    for place in (0, 3, 12, 40, len(whole) // 2, len(whole) - 6):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"bpe\.txt\.gz"):
            read_merges(path)
    for content in (b"", whole[:1000], b"\xff\xfe" * 50):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bpe\.txt\.gz"):
            read_merges(path)


def test_a_table_may_not_unpack_to_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "FREE", 2**20)
    (tmp_path / "bpe.txt.gz").write_bytes(gzip.compress(b"a b\n" * 2**20))
    with pytest.raises(UserError, match="unpacks to over"):
        read_merges(tmp_path / "bpe.txt.gz")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "bpe.txt")
    with pytest.raises(UserError, match="cannot be read"):
        read_merges(tmp_path / "bpe.txt")
