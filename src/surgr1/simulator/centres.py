"""Simulated hospitals: how their pictures and habits differ. They imitate no real hospital's data, only that
hospitals differ.
"""

from surgr1.simulator.scene import Centre

CENTRES: dict[str, Centre] = {
    c.name: c
    for c in (
        # Training centres.
        Centre("sim-strasbourg-public", vignette=0.90, habits={"hook": 0.85}),
        Centre("sim-bern-public", temperature=0.15, zoom=1.04, roll=0.04, shaft=(60, 62, 70)),
        Centre("sim-london-public", temperature=-0.1, illumination=1.05, shaft=(54, 58, 66)),
        # Training centres of the fields; sizes have the shape of their data's pictures.
        Centre("sim-hong-kong-public", temperature=-0.05, zoom=1.02, shaft=(62, 66, 74)),
        Centre("sim-bogota-public", size=(448, 280), temperature=0.1, shaft=(48, 50, 56)),
        Centre("sim-dresden-public", temperature=-0.15, illumination=1.08, roll=0.03),
        Centre("sim-sunnyvale-public", size=(360, 288), temperature=0.05, illumination=0.96),
        Centre("sim-zaragoza-public", size=(320, 240), temperature=0.2, vignette=0.95, noise=0.05),
        # External centres: never trained on.
        Centre(
            "sim-west-china",
            temperature=0.45,
            illumination=0.92,
            vignette=0.84,
            roll=0.10,
            zoom=1.05,
            noise=0.10,
            tempo=1.1,
        ),
        Centre(
            "sim-nanfang",
            temperature=-0.35,
            illumination=1.12,
            roll=-0.10,
            zoom=1.08,
            noise=0.08,
            shaft=(92, 92, 96),
        ),
        Centre(
            "sim-renji",
            size=(420, 280),
            temperature=0.3,
            illumination=0.9,
            roll=0.12,
            noise=0.09,
            shaft=(50, 50, 56),
            habits={"hook": 0.45},
        ),
        Centre(
            "sim-strasbourg",
            temperature=-0.15,
            illumination=1.05,
            vignette=0.94,
            zoom=1.06,
            tempo=0.9,
            habits={"hook": 0.8},
        ),
        Centre(
            "sim-cuhk",
            size=(448, 280),
            temperature=-0.3,
            illumination=1.1,
            zoom=1.1,
            mirrored=True,
            noise=0.07,
            tempo=0.9,
        ),
    )
}
