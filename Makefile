.PHONY: check test test-slow demo results

check:
	ruff format --check .
	ruff check .
	mypy

test:
	pytest

test-slow:
	pytest -m "slow"

demo:
	python -m harness.bench

results:
	python -m harness.leaderboard results/digits --format all --out results/digits
	python -m harness.leaderboard results/deit_t --format all --out results/deit_t
