"""What every run has: configuration, folder, work item by item, tables, pages, comparison, tracking."""
