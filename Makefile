.PHONY: check test test-slow faults demo results

check:
	ruff format --check .
	ruff check .
	mypy

test:
	pytest -n auto --dist loadfile

test-slow:
	pytest -m "slow"

# Every fault 20 times: half an hour and more. FAULT_TIMES=2 make test-slow strikes twice.
faults:
	PYTHONPATH=. python tests/faults/table.py

demo:
	python -m harness.bench

# The tables of README and of every study's README are made from records; csv, LaTeX and the page of all stay out of git.
results:
	python -m harness.check
	python -m harness.fill README.md docs/methods.md results/README.md results/*/README.md
	for records in results/*/records.jsonl; do \
		for format in csv latex; do \
			python -m harness.leaderboard $${records%/records.jsonl} --format $$format --out $${records%/records.jsonl} || exit 1; \
		done; \
	done
	python -m harness.leaderboard --format html --out results
