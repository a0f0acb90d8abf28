#!/bin/bash
# A study divided among the tasks of a SLURM job array, all writing into one run store.
#
#   mkdir -p logs && sbatch configs/slurm/study.sh
#   STUDY=rates PROFILE=open sbatch configs/slurm/study.sh
#
# Submit it from the project's folder; that folder, or the store at least, must lie on a file
# system that all nodes share. Task I takes every N-th run of the study's fixed order, beginning
# with the I-th, and leaves out what is recorded already. Which runs are whose depends on the
# command alone, so a task that was killed, preempted or requeued goes on with its own share when
# it starts again, and what it had recorded is not computed again.
#
# Each task ends with how many runs of the whole study are left. A run that another task has
# claimed is left to that task; the claim of a task that died on another node holds for ten
# minutes. If runs are left when the array has ended, submit it again. When none is left, one
# command without --shard gathers and prints the whole study (and, with --publish, publishes it):
#
#   unlearn study main --profile lab --store runs
#
# The number of shards stands in two places, which must agree: the array's upper end, and SHARDS.
# It is not taken from SLURM_ARRAY_TASK_COUNT, so that `sbatch --array=3,5 configs/slurm/study.sh`
# runs shards 3 and 5 of eight again, and not 3 and 5 of two.

#SBATCH --job-name=unlearn-study
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --output=logs/%x-%A-%a.log
#SBATCH --requeue
# With GPUs, one for each task:
##SBATCH --gres=gpu:1

set -euo pipefail

SHARDS=8
STUDY="${STUDY:-main}"
PROFILE="${PROFILE:-lab}"
STORE="${STORE:-runs}"

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-4}"
source .venv/bin/activate

unlearn study "$STUDY" --profile "$PROFILE" --store "$STORE" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS" --quiet
