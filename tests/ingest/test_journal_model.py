"""The journal against a list in memory: any order of appends, reads, trims, crashes, cuts and reopenings."""

import queue
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.journal import Journal

CONFIG = JournalConfig(commit=0, segment_bytes=1 << 16, bytes_max=1 << 20)
SOURCES = st.sampled_from(["press", "oven", "cells"])


class JournalMachine(RuleBasedStateMachine):
    """`records`: offset -> (source, position, number, rows) of everything acknowledged and not trimmed or cut."""

    @initialize()
    def start(self):
        self.directory = Path(tempfile.mkdtemp(prefix="journal-model-"))
        self.records = {}
        self.positions = {}
        self.floor = 0
        self.number = 0
        self.open()

    def open(self):
        self.journal = Journal(self.directory, CONFIG, clock=SystemClock(), metrics=Metrics())
        self.acks = queue.Queue()

    @rule(
        burst=st.lists(st.tuples(SOURCES, st.integers(0, 800), st.booleans()), min_size=1, max_size=5),
    )
    def append(self, burst):
        if self.journal.bytes() > 700_000:
            self.trim_to(self.journal.durable)
        sent = []
        for source, rows, marked in burst:
            self.number += 1
            batch = Batch.of(
                tag=[self.number] * rows, time=[self.number] * rows, value=[0.5] * rows, received=[1] * rows
            )
            position = f"p{self.number}" if marked else None
            self.journal.append(source, batch, position, self.acks.put)
            sent.append((source, position, self.number, rows))
        for source, position, number, rows in sent:
            offset = self.acks.get(timeout=30)
            assert offset >= self.floor, "an offset came back"
            self.floor = offset + 1
            self.records[offset] = (source, position, number, rows)
            if position is not None:
                self.positions[source] = position

    @rule(start=st.integers(0, 60), length=st.integers(0, 60))
    def read(self, start, length):
        got = {r.offset: r for r in self.journal.read(start, start + length)}
        assert list(got) == sorted(got)
        assert set(got) == {o for o in self.records if start <= o < start + length}
        for offset, record in got.items():
            source, position, number, rows = self.records[offset]
            assert (record.source, record.position, len(record.batch)) == (source, position, rows)
            assert set(record.batch.tag) <= {number}

    @rule(share=st.floats(0, 1))
    def trim(self, share):
        self.trim_to(int(share * self.journal.durable))

    def trim_to(self, before):
        self.journal.trim(before)
        first = self.journal.first
        assert all(offset < before for offset in self.records if offset < first)
        self.records = {o: r for o, r in self.records.items() if o >= first}

    @rule()
    def reopen(self):
        self.journal.close()
        self.open()

    @rule()
    def crash(self):
        """Go on with the files as they are now, as after kill -9."""
        copy = self.directory.with_suffix(".copy")
        shutil.copytree(self.directory, copy)
        self.journal.close()
        shutil.rmtree(self.directory)
        copy.rename(self.directory)
        self.open()

    @precondition(lambda self: self.records)
    @rule(share=st.floats(0, 1))
    def cut_tail(self, share):
        """The write of the last record is torn somewhere inside it: only that record goes."""
        self.journal.close()
        segment = self.journal._segments[-1]
        with segment.path.open("rb+") as stream:
            frames = list(segment.frames(stream.fileno(), segment.start, segment.size))
            if not frames:
                self.open()
                return
            last = frames[-1]
            stream.truncate(last.at + 1 + int(share * (last.size - 1)))
        self.open()
        got = {r.offset for r in self.journal.read(0)}
        assert set(self.records) - got <= {last.offset}
        self.records = {o: r for o, r in self.records.items() if o in got}
        # Positions may fall back with the record that carried one.
        self.positions = self.journal.positions()

    @invariant()
    def agrees(self):
        assert self.journal.positions() == self.positions
        assert self.journal.durable >= (max(self.records) + 1 if self.records else 0)

    def teardown(self):
        if hasattr(self, "journal"):
            self.journal.close()
            shutil.rmtree(self.directory)


TestJournalModel = JournalMachine.TestCase
TestJournalModel.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
