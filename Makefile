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

# Every study gets its leaderboard as Markdown; csv, LaTeX and the page of all are made here too, and stay out of git.
results:
	python -m harness.check
	for records in results/*/records.jsonl; do \
		for format in md csv latex; do \
			python -m harness.leaderboard $${records%/records.jsonl} --format $$format --out $${records%/records.jsonl} || exit 1; \
		done; \
	done
	python -m harness.leaderboard results/deit_t_8x100 --pairs --format md --out results/deit_t_8x100 \
		--filter bits=w4a4 --filter backend=blockwise \
		--filter 'overrides=noise.images=8,real.images=8,psaq_vit.images=8*,spdfq.images=8*iterations=100'
	for study in deit_t_8x100 digits_8x100; do \
		python -m harness.ablation --results results/$$study --table-only --out results/$$study/ablation.md || exit 1; \
	done
	python -m harness.leaderboard --format html --out results
	python -m harness.fill README.md docs/methods.md results/README.md results/*/README.md
