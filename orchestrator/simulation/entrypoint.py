"""The entry point of the testing image: drops root as the own image's, then starts the simulation."""

from orchestrator.own_image.entrypoint import main

if __name__ == "__main__":
    main("orchestrator.simulation")
