"""Gateways to exchanges; third-party answers become typed values here and nowhere else."""
