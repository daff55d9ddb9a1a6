"""The one entry point: composes the configuration and hands it to the runner.

python run.py                                       interpolate the shipped pairs
python run.py experiment=<id>                       another experiment; conf/experiment/ lists them
python run.py image_a=<file> image_b=<file> prompt_a='...' prompt_b='...'
python run.py --help                                groups, keys and examples
"""

from latent_geodesics.run.main import run

if __name__ == "__main__":
    run()
