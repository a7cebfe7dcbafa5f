"""What a report says, one part of it per file; :mod:`gradscope.reports.view` puts them in order."""
