"""Who is where in a film: faces found now and then, followed in between, and known again after they were hidden.

Frames are uint8 (H, W, 3) RGB, upright, and come in order; points are (x, y) in a frame's pixels, centres at integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from dualstylegan.choices import DETECT_EVERY
from dualstylegan.errors import UsageError
from dualstylegan.faces.cuts import Cut, CutFinder
from dualstylegan.faces.face import DUPLICATE_OVERLAP, Face, transform
from dualstylegan.faces.find import Detector, FaceEmbedder, Glancing
from dualstylegan.faces.motion import GreyFrame, face_motion
from dualstylegan.networks.identity import SAME_PERSON_DISTANCE

SURE = 0.97  # score of a detection that is believed at once; others wait for a second sighting
SAME_LOOK = 0.8  # correlation of a followed face's pixels with those of the frame before, at least
STRAY = 0.12  # of the crop's side: landmarks that leave the pixels' motion so far have lost the face
HOLD = 0.1  # part by which the landmarks draw the place to look at, whose trembling would be theirs again

GLANCES = 3  # looks in a row, while all faces are sure, for those that are not much smaller; the next is for all
GLANCE = 0.5  # part of the smallest known face's width that a glance sees

GAP = 10  # frames a lost face is expected back where it was going, and shown there by the smoother
SEARCH_EVERY = 2  # frames, while it is
COASTING = 0.95  # part of its speed that a lost face keeps from frame to frame
MEMORY = 75  # frames for which it is known again by who it is
MOST_MISSES = 4  # detections that do not show a face which is being followed; then it is no face

# Of a detection and a track: how far they may lie apart, in sides of the track's crop, and how much one may be larger
REACH, REACH_PER_FRAME, MOST_REACH = 0.25, 0.08, 1.0
MOST_GROWTH = 0.5  # natural logarithm
IMPOSSIBLE = 1e6


@dataclass
class TrackedFace:
    """A face of a film in one frame. `track` is its number, the same in every frame of the film.

    `seen` is False where nothing of it was found in this frame and `face` is only where it should be. `confirmed` is
    False until a second look has shown that it is a face at all. `motion` (3, 3) takes this face's pixels of the frame
    before to this frame's, None where that was not measured. `opacity` is how much of the portrait is to be shown.
    """

    track: int
    face: Face
    seen: bool = True
    confirmed: bool = True
    motion: np.ndarray | None = None
    opacity: float = 1.0


@dataclass
class FrameFaces:
    """The faces of frame `index`, those pasted last at the end. `cut`: a new shot begins with this frame."""

    index: int
    faces: list[TrackedFace] = field(default_factory=list)
    cut: bool = False


class FaceTracker:
    """Follows the faces of one film. `track` takes its frames in order, as many at a time as one likes.

    Every `detect_every` frames, after a cut and whenever a face is lost or doubtful, the detector looks at the whole
    frame. In between each face is followed by the motion of its own pixels, and a detector that has `follow` places its
    landmarks there. While all faces are sure, one that has `glance` looks for small faces in one look of four only.
    Detections go to tracks by place and size (Hungarian assignment), and by who they are wherever
    that leaves a doubt.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        detect_every: int = DETECT_EVERY,
        embedder: FaceEmbedder | None = None,
    ):
        """`embedder` tells people apart; without one only their places do. Raises UsageError for a `detect_every` below
        1."""
        if detect_every < 1:
            raise UsageError(f"Faces cannot be looked for every {detect_every} frames: 1 is every frame.")
        self.detector = detector
        self.detect_every = detect_every
        self.embedder = embedder
        self.cuts = 0
        self._confirmed: set[int] = set()
        self._cut_finder = CutFinder()
        self._tracks: list[_Track] = []
        self._shot_before: list[_Track] = []  # its tracks
        self._begun = 0
        self._index = 0
        self._since = detect_every  # frames since the detector last had its turn
        self._glances = 0  # in a row
        self._before: GreyFrame | None = None

    @property
    def people(self) -> int:
        """How many tracks there have been, those left out that turned out to be no faces."""
        return len(self._confirmed)

    def track(self, frames: Sequence[np.ndarray]) -> list[FrameFaces]:
        """The faces of the next frames, one entry a frame."""
        frames = list(frames)
        cuts = self._cut_finder.find(frames)
        last = None if self._before is None else self._before.frame
        same = [
            before is not None and not cut and _is_same(before, frame)
            for before, frame, cut in zip([last, *frames], frames, cuts, strict=False)
        ]
        detected = self._detect_due(frames, cuts, same)
        results = []
        for number, frame in enumerate(frames):
            if cuts[number]:
                self._begin_shot(cuts[number])
            if same[number]:
                self._stand_still()
            else:
                self._advance(frame, detected.get(number), is_due=number in detected)
            results.append(FrameFaces(self._index, self._shown(), bool(cuts[number])))
            self._index += 1
        return results

    def _detect_due(self, frames: list[np.ndarray], cuts: list[Cut], same: list[bool]) -> dict[int, list[Face] | None]:
        """What the detector finds in those of the frames whose turn it is, all at once; None where it looks later."""
        due = []
        for number, cut in enumerate(cuts):
            if cut or (self._since >= self.detect_every and not same[number]):
                due.append(number)
                self._since = 0
            self._since += 1
        if self._can_glance:  # how much there is to look for is known once the frames before are through
            return dict.fromkeys(due)
        return dict(zip(due, self._find([frames[number] for number in due]), strict=True))

    @property
    def _can_glance(self) -> bool:
        """Asked for every frame, the detector's own places count, and a glance's are a little others."""
        return self.detect_every > 1 and isinstance(self.detector, Glancing)

    def _look(self, frame: np.ndarray) -> list[Face]:
        """A frame whose turn it is: at all of it, or while all faces are sure three times of four at large ones."""
        sure = self._tracks and all(track.is_sure for track in self._tracks)
        if not (sure and isinstance(self.detector, Glancing)) or self._glances >= GLANCES:
            self._glances = 0
            return self._find([frame])[0]
        self._glances += 1
        return self.detector.glance([frame], GLANCE * min(track.face.width for track in self._tracks))[0]

    def _find(self, frames: list[np.ndarray]) -> list[list[Face]]:
        return self.detector.find(frames) if frames else []

    def _begin_shot(self, cut: Cut) -> None:
        self.cuts += 1
        self._tracks, self._shot_before = self._shot_before if cut == Cut.BACK else [], self._tracks
        self._before = None

    def _stand_still(self) -> None:
        """The frame is the one before, to the last bit: so is what is known about it, and no look would tell more."""
        for track in self._tracks:
            track.wait()
        self._confirmed.update(track.number for track in self._tracks)

    def _advance(self, frame: np.ndarray, found: list[Face] | None, is_due: bool) -> None:
        grey = GreyFrame(frame)
        for track in self._tracks:
            self._follow(track, grey)
        self._before = grey
        self._part_doubles(frame)
        if found is None and is_due:
            found = self._look(frame)
        if found is None and any(track.is_doubtful for track in self._tracks):
            (found,) = self._find([frame])
        if found is not None:
            self._assign(frame, found)
        height, width = frame.shape[:2]
        for track in self._tracks:
            track.leave(width, height)
        self._tracks = [track for track in self._tracks if track.is_alive]
        self._confirmed.update(track.number for track in self._tracks if track.confirmed)

    def _follow(self, track: _Track, grey: GreyFrame) -> None:
        """Moves the track to this frame: by its pixels where they are still seen, else as it was going."""
        moved = self._motion_of(track, grey) if track.is_seen else None
        points = None if moved is None else self._landmarks_of(track, grey.frame, moved)
        if points is None or moved is None:
            track.lose()
        else:
            track.move(points, moved)

    def _motion_of(self, track: _Track, grey: GreyFrame) -> np.ndarray | None:
        if self._before is None or self._before.frame.shape != grey.frame.shape:
            return None
        guesses = [track.velocity, np.eye(3)]
        if np.array_equal(guesses[0], guesses[1]):
            guesses.pop()
        for guess in guesses:
            motion = face_motion(self._before, grey, track.face.crop_from_photo, guess)
            if motion.agreement >= SAME_LOOK:
                return motion.matrix
        return None

    def _landmarks_of(self, track: _Track, frame: np.ndarray, moved: np.ndarray) -> np.ndarray | None:
        """The landmarks in this frame; None where there is no face, or another one."""
        expected = transform(moved, track.anchor)
        if not hasattr(self.detector, "follow"):
            return transform(moved, track.face.points.astype(np.float64))
        (points,) = self.detector.follow(frame, [expected])
        if points is None or _distance(points, expected) > STRAY * track.face.crop_side_px:
            return None
        return points

    def _part_doubles(self, frame: np.ndarray) -> None:
        """Where two tracks are on one face, the one whose face it is not loses it."""
        seen = [track for track in self._tracks if track.is_seen]
        for number, one in enumerate(seen):
            for other in seen[number + 1 :]:
                if one.is_seen and other.is_seen and _overlap(one.face.box, other.face.box) > DUPLICATE_OVERLAP:
                    who = self._embedding(frame, one.face)
                    wrong = max(one, other, key=lambda track: (track.strangeness(who), track.number))
                    wrong.lose()

    def _assign(self, frame: np.ndarray, found: list[Face]) -> None:
        """Gives each detection to a track, or begins one; what no detection shows is missed."""
        costs = self._costs(frame, found)
        pairs = [
            (self._tracks[row], found[column])
            for row, column in zip(*linear_sum_assignment(costs), strict=True)
            if costs[row, column] < IMPOSSIBLE
        ]
        taken = {id(face) for _, face in pairs}
        missed = [track for track in self._tracks if all(track is not owner for owner, _ in pairs)]
        # Asked for every frame, the detector's own places count; so they do where nothing else tells of landmarks.
        places = self.detect_every == 1 or not hasattr(self.detector, "follow")
        for track, face in pairs:
            track.detect(face, places)
        for track in missed:
            track.miss()
        for face in found:
            if id(face) not in taken:
                self._begin(frame, face)

    def _begin(self, frame: np.ndarray, face: Face) -> None:
        """A new track. Whoever turns up where somebody was lost may be that one, half hidden: that wants a second look,
        and so does what is hardly a face."""
        half_hidden = any(not track.is_seen and track.cost_of(face) < IMPOSSIBLE for track in self._tracks)
        self._begun += 1
        embedding = self._embedding(frame, face)
        self._tracks.append(_Track(self._begun, face, embedding, confirmed=face.score >= SURE and not half_hidden))

    def _costs(self, frame: np.ndarray, found: list[Face]) -> np.ndarray:
        """(tracks, detections): what it would cost to take each for each, IMPOSSIBLE where it cannot be."""
        costs = np.full((len(self._tracks), len(found)), IMPOSSIBLE)
        for row, track in enumerate(self._tracks):
            costs[row] = [track.cost_of(face) for face in found]
        possible = costs < IMPOSSIBLE
        for column, face in enumerate(found):
            rivals = list(np.flatnonzero(possible[:, column]))
            near = [row for row in rivals if self._tracks[row].is_seen]
            if len(rivals) == 1 and near and possible[near[0]].sum() == 1:
                continue  # only one can be meant, and it was not out of sight
            who = self._embedding(frame, face) if len(self._tracks) else None
            for row, track in enumerate(self._tracks):
                strangeness = track.strangeness(who)
                if not track.is_seen and strangeness > 1:
                    costs[row, column] = IMPOSSIBLE
                elif row in rivals:
                    costs[row, column] += strangeness
                elif track.is_forgotten and strangeness < 1 and who is not None:
                    costs[row, column] = 1 + strangeness  # known again by the face alone, wherever it appears
        return costs

    def _embedding(self, frame: np.ndarray, face: Face) -> np.ndarray | None:
        if face.embedding is None and self.embedder is not None:
            self.embedder.embed(frame, [face])
        return face.embedding

    def _shown(self) -> list[TrackedFace]:
        """Those present, and those expected back soon, from the smallest to the largest."""
        present = [track for track in self._tracks if track.unseen <= GAP]
        present.sort(key=lambda track: track.face.crop_side_px)
        return [
            TrackedFace(track.number, replace(track.face), track.is_seen, track.confirmed, track.motion)
            for track in present
        ]


class _Track:
    """What is known about one face: where it is, how it moves, who it is, and how long nothing was seen of it."""

    def __init__(self, number: int, face: Face, embedding: np.ndarray | None, confirmed: bool):
        self.number = number
        self.face = face
        self.embedding = embedding
        self.confirmed = confirmed
        self.anchor = face.points.astype(np.float64)  # moves with the pixels; where the landmarks are looked for
        self.velocity = np.eye(3)  # frame to frame
        self.motion: np.ndarray | None = None  # from the frame before, where it was measured
        self._left = face  # as it was last seen
        self._coast = np.zeros(2)  # px a frame, while it is not
        self.unseen = 0  # frames in a row in which it was not
        self.misses = 0  # detections in a row that did not show it

    @property
    def is_seen(self) -> bool:
        return self.unseen == 0

    @property
    def is_sure(self) -> bool:
        return self.is_seen and self.confirmed and self.misses == 0

    @property
    def is_forgotten(self) -> bool:
        """Too long out of sight to be expected anywhere: it was not even back in the frame after GAP others."""
        return self.unseen > GAP + 1

    @property
    def is_doubtful(self) -> bool:
        """Whether the detector should look now, not when it is due."""
        lost = not self.is_seen and not self.is_forgotten and (self.unseen - 1) % SEARCH_EVERY == 0
        return lost or not self.confirmed

    @property
    def is_alive(self) -> bool:
        if not self.confirmed:
            return self.is_seen and self.misses == 0
        return self.unseen <= MEMORY

    def leave(self, width: int, height: int) -> None:
        """Who has gone out of the frame is expected nowhere, but may come back."""
        x, y = _center(self.face)
        if not self.is_seen and not (0 <= x <= width and 0 <= y <= height):
            self.unseen = max(self.unseen, GAP + 2)

    def wait(self) -> None:
        """Nothing moves: what is there once more is confirmed by that."""
        self.confirmed = True
        self.motion = np.eye(3) if self.is_seen else None
        self.unseen += not self.is_seen

    def move(self, points: np.ndarray, motion: np.ndarray) -> None:
        """It was followed to this frame."""
        self.anchor = transform(motion, self.anchor)
        self.anchor += HOLD * (points - self.anchor)
        self.face = Face.from_points(points, self.face.score)
        self.velocity, self.motion = motion, motion

    def lose(self) -> None:
        """Nothing of it was seen in this frame: it goes on as it was going, ever more slowly."""
        if self.is_seen:
            self._left = self.face
            self._coast = transform(self.velocity, _center(self.face)) - _center(self.face)
        self.unseen += 1
        self.motion = None
        self.velocity = np.eye(3)
        self._shift(self._coast)
        self._coast = COASTING * self._coast

    def _shift(self, by: np.ndarray) -> None:
        self.anchor = self.anchor + by
        self.face = Face.from_points(self.face.points + by.astype(np.float32), self.face.score)

    def detect(self, face: Face, places: bool) -> None:
        """The detector has shown it in this frame. Where it was followed too, that places it more steadily: then the
        detection does only if it `places` faces."""
        strayed = _distance(face.points, self.face.points) > STRAY * self.face.crop_side_px
        if not self.is_seen or strayed:
            # Its pixels could not be followed, but its landmarks tell about how it moved, if it was seen a frame ago
            moved = self.unseen == 1
            self.motion = face.photo_from_crop @ self._left.crop_from_photo if moved else None
            self.velocity = np.eye(3) if self.motion is None else self.motion
        if places or not self.is_seen or strayed:
            self.anchor = face.points.astype(np.float64)
            self.face = replace(face, embedding=None)
        self.face.score = face.score
        if self.embedding is None:
            self.embedding = face.embedding
        self.unseen = self.misses = 0
        self.confirmed = True  # one detection began it, this is another

    def miss(self) -> None:
        """The detector looked and did not show it."""
        self.misses += 1
        if self.is_seen and self.misses >= MOST_MISSES:
            self.lose()

    def cost_of(self, face: Face) -> float:
        """About 1 for as far as a detection may be from it; IMPOSSIBLE beyond."""
        if self.is_forgotten:
            return IMPOSSIBLE
        reach = min(REACH + REACH_PER_FRAME * self.unseen, MOST_REACH)
        side = self.face.crop_side_px
        away = np.hypot(*(_center(face) - _center(self.face))) / side / reach
        growth = abs(np.log(face.crop_side_px / side)) / MOST_GROWTH
        apart = 1 - _overlap(face.box, self.face.box)
        return float(away + growth + 0.5 * apart) if away <= 1 and growth <= 1 else IMPOSSIBLE

    def strangeness(self, embedding: np.ndarray | None) -> float:
        """How little this is who it is: above 1 somebody else. 0 where that is not known."""
        if embedding is None or self.embedding is None:
            return 0.0
        return float(np.linalg.norm(embedding - self.embedding)) / SAME_PERSON_DISTANCE


def _center(face: Face) -> np.ndarray:
    return (face.box[:2] + face.box[2:]).astype(np.float64) / 2


def _distance(points: np.ndarray, others: np.ndarray) -> float:
    return float(np.hypot(*(points - others).T).mean())


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    middle = len(one) // 2  # this row alone tells most frames apart
    return np.array_equal(one[middle], other[middle]) and np.array_equal(one, other)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
    return float(shared / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared, 1e-9))
