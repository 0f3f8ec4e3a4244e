"""Speed and exactness as ratios to a reference measured in the same run on the same data."""
