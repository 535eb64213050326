"""The parts of a report: tables, pictures and the sections of each analyzer, put on one page."""
