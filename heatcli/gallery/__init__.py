"""The gallery: an HTML page of all explanations in a folder, and similar pages for the results of other commands."""
