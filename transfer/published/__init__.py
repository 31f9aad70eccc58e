"""Published numbers, and the tables of the paper with a user's own rows. Imports no PyTorch.

In reading order: published_data, published_tasks, published_numbers, task_matching, paper_table,
result_tables, ablation_paper_tables.
"""

from transfer.published.ablation_paper_tables import ablation_paper_tables
from transfer.published.paper_table import (
    Cell,
    Heading,
    OurRow,
    OurScore,
    PaperTable,
    TableRow,
    as_text,
)
from transfer.published.published_numbers import (
    Published,
    PublishedNumber,
    published_label,
    published_numbers,
    published_scores,
)
from transfer.published.result_tables import backbone_name, paper_tables
from transfer.published.task_matching import (
    baselines_of,
    protocol_differences,
    settings_of,
    task_of,
)

__all__ = [
    "Cell",
    "Heading",
    "OurRow",
    "OurScore",
    "PaperTable",
    "Published",
    "PublishedNumber",
    "TableRow",
    "ablation_paper_tables",
    "as_text",
    "backbone_name",
    "baselines_of",
    "paper_tables",
    "protocol_differences",
    "published_label",
    "published_numbers",
    "published_scores",
    "settings_of",
    "task_of",
]
