import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from utils.lab import classroom

SOLUTION = "answer = 6 * 7\nexercises.check_answer(answer)"


@pytest.fixture
def lesson():
    """A notebook with one exercise."""
    cells = [
        new_markdown_cell("# A lesson\n\nSee $x^2$ and [next](01_next.ipynb)."),
        new_code_cell("import lesson_checks as exercises"),
        new_markdown_cell("## Exercises"),
        new_code_cell("answer = ...", metadata={"tags": ["exercise"]}),
        new_code_cell("exercises.check_answer(answer)"),
        new_code_cell(SOLUTION, metadata={"tags": ["solution"]}),
        new_markdown_cell("## Next"),
    ]
    return new_notebook(cells=cells)


def test_students_get_everything_but_the_solution(lesson):
    kept = [cell.source for cell in classroom.student(lesson).cells]
    assert kept == [cell.source for cell in lesson.cells if cell.source != SOLUTION]
    assert len(lesson.cells) == 7  # the notebook itself is as it was


def test_an_exercise_needs_its_check_and_solution(lesson):
    del lesson.cells[5]
    with pytest.raises(ValueError, match=r"no check and solution follow the exercise 'answer = "):
        list(classroom.exercises(lesson))


def test_slides_end_before_the_exercises_and_load_nothing_from_the_network(lesson):
    html = classroom.slides(lesson)
    found = [text in html for text in ("A lesson", "<math", "check_answer")]
    assert found == [True, True, False]  # comparing whole pages would take minutes
    loaded = re.findall(r"<(?:script|link)[^>]*\s(?:src|href)=[\"']([^\"']*)", html)
    assert loaded and all(address.startswith("reveal.js/") for address in loaded)
    assert not re.findall(r"(?:import|from|url\()\s*[\"']?https?:", html)
