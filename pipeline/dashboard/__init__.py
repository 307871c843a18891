"""The page of all results, and one for each experiment: views of the files in `reports/`, outputs of no stage."""
