"""The order of the tests."""

# The longest come first, so that no process ends alone with one of them.
LONGEST = {"test_templates.py", "test_tutorial.py", "test_mistakes.py", "test_cpp_example.py"}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONGEST)
