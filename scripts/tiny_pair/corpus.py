"""Training stories as token ids on disk, written once by several processes and read by every run.

Chunk c holds the CHUNK_STORIES training stories from number c * CHUNK_STORIES on. The step number determines which
stories are used, so a rerun, a resumed run and a run on another machine see the same data in the same order.
"""

import os
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from dlmbench.tiny.story import LONGEST_WINDOW, story_of
from dlmbench.tiny.vocabulary import encode

CHUNK_STORIES = 4096


def _chunk_path(directory: Path, chunk: int) -> Path:
    return directory / f"stories-{chunk:05d}.npy"


def _write_chunk(job: tuple[Path, int]) -> None:
    directory, chunk = job
    path = _chunk_path(directory, chunk)
    if path.exists():
        return
    first = chunk * CHUNK_STORIES
    stories = [encode(story_of("training", index)) for index in range(first, first + CHUNK_STORIES)]
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished.npy")
    np.save(unfinished, np.array(stories, dtype=np.int16))
    unfinished.rename(path)


def write_corpus(directory: Path, chunks: int, workers: int) -> None:
    """Write `chunks` chunks in order, `workers` at a time; existing ones are kept."""
    directory.mkdir(parents=True, exist_ok=True)
    with get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap(_write_chunk, [(directory, chunk) for chunk in range(chunks)]):
            pass


class StoryReader:
    """Reads batches of stories; starts again after the last chunk.

    Stories are independent draws, so they need no shuffling.
    """

    def __init__(self, directory: Path, chunks: int, device: torch.device) -> None:
        self._directory, self._chunks, self._device = directory, chunks, device
        self._loaded: dict[int, torch.Tensor] = {}

    def _chunk(self, chunk: int) -> torch.Tensor:
        if chunk not in self._loaded:
            path = _chunk_path(self._directory, chunk)
            while not path.exists():  # another process is still writing it
                time.sleep(0.05)
            self._loaded[chunk] = torch.from_numpy(np.load(path)).to(self._device)
        return self._loaded[chunk]

    def stories(self, first: int, count: int, length: int) -> torch.Tensor:
        """int64 (count, length): the first `length` words of the stories from number `first` on."""
        assert length <= LONGEST_WINDOW
        parts = []
        while count > 0:
            chunk, offset = divmod(first, CHUNK_STORIES)
            part = self._chunk(chunk % self._chunks)[offset : offset + count, :length]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return torch.cat(parts).long()
