"""Models in MLflow: logged with each run, registered by data set, served; and which of them is the champion."""
