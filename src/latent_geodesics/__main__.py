"""`python -m latent_geodesics`: the command, from any folder."""

from latent_geodesics.run.main import run

if __name__ == "__main__":
    run()
