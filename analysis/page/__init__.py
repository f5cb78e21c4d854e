"""The report as one page that needs no network: `report.html`, and what it draws as JSON."""
