"""The fifteen pains of Torch-Pruning's users: each reproduced as a user would meet it, then ours.

| | pain | test |
|---|---|---|
| 1 | saving and reloading | test_files.py |
| 2 | frozen parameters | test_tracing.py |
| 3 | tracing fails | test_tracing.py |
| 4 | hard-coded reshapes | test_tracing.py |
| 5 | accuracy collapses | test_budgets.py |
| 6 | no speed-up | test_budgets.py |
| 7 | raw parameters | test_tracing.py |
| 8 | attention heads | test_attention.py |
| 9 | grouped and depthwise convolutions | test_channels.py |
| 10 | export | test_files.py |
| 11 | several processes | test_distributed.py |
| 12 | what a ratio means | test_budgets.py |
| 13 | quantising | test_files.py |
| 14 | detectors | test_channels.py |
| 15 | pixel shuffle | test_channels.py |

What Torch-Pruning 1.6.1 does is pinned: a later version that does better makes a test fail.
"""
