"""SurgBench: task cards, predictions, metrics with floors and video-clustered intervals, Arena Score, HTML
report.

Generation and scoring are apart: `runner` writes predictions, `scoring` reads them. Denominators are strict:
every sample of the list counts, and an answer that is not parsed is wrong, never a class. Imports without
torch.
"""
