"""The one loop, and what it needs: recipe, optimiser, schedule, tracker, quarantine, picture."""
