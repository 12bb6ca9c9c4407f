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

# Every folder of records gets its leaderboard in three formats; all of them together make one page.
results:
	python -m harness.check
	for records in results/*/records; do \
		for format in md csv latex; do \
			python -m harness.leaderboard $${records%/records} --format $$format --out $${records%/records} || exit 1; \
		done; \
	done
	python -m harness.leaderboard --format html --out results
