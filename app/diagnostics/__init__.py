"""How a norm's outputs drift away from zero mean and unit variance in every channel.

``python -m app diagnose`` measures it, as the plots of arXiv 2106.03743 do: ``measure`` runs
networks on images, ``moments`` has the statistics, ``results`` what was found, and ``report`` shows
it as text, JSON, CSV and a picture.
"""
