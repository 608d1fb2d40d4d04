import pytest

from benchmarks import task1


def test_the_rate_is_that_of_the_log():
    words = "12:00:00 - INFO - Average Image IO Throughput: 371.250 images/s\n"
    assert task1.find_rate(f"Total IO Time: 2.1s\n{words}") == 371.25
    with pytest.raises(ValueError, match="found 2"):
        task1.find_rate(words * 2)
