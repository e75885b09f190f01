"""What a child says before it leaves must arrive, whatever is in it."""

from worker.board import Board
from worker.board_page import REASON_BYTES


def test_a_reason_that_names_a_file_in_no_encoding_is_told() -> None:
    """Failing to say it, the child would go on without a model, and answer every message with an error."""
    board = Board()
    board.refuse(2, "model_file: /models/caf\udce9: missing")
    assert board.refusal == (2, "model_file: /models/caf\\udce9: missing")
    assert board.load_failed(0, "\udce9" * REASON_BYTES) == 1
    assert board.reason.startswith("\\udce9\\udce9")


def test_nobody_waits_for_work_while_every_process_loads_its_model() -> None:
    """Messages wait in Redis then, and a consumer that is called deaf for it drops its connection every few seconds."""
    board = Board()
    board.started(0, 11)
    board.started(1, 12)
    assert not board.nobody_works(2)
    board.proved(0, 11)
    assert board.nobody_works(2)
    board.progressed(0)
    assert not board.nobody_works(2)
    board.idle(0)
    board.started(0, 13)  # its successor loads
    assert not board.nobody_works(2)
