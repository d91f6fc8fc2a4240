"""The Slicer module: a question box, the answer with its findings, the history, and the label map as a segment.

The only file here that imports Slicer and Qt; everything that can be wrong without them lies in `prsmed_ask`.
It has not been run inside Slicer: see the checklist in docs/slicer.md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import qt
import slicer
import vtk
from prsmed_ask.conversation import Conversation, answer_lines, new_segments, segment_name
from prsmed_ask.server import LabelServer, ServerError
from prsmed_ask.slices import axial_index
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

_SETTINGS_URL = "PrsmedAsk/serverUrl"


class PrsmedAsk(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Ask an image"
        parent.categories = ["Segmentation"]
        parent.contributors = ["prsmed engineers"]
        parent.helpText = "Ask where something is. Research software, not a medical device."


class PrsmedAskWidget(ScriptedLoadableModuleWidget):
    """The panel."""

    def setup(self):
        """Build the panel; called by Slicer."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = PrsmedAskLogic()
        form = qt.QFormLayout()
        self.layout.addLayout(form)
        self.url = qt.QLineEdit(qt.QSettings().value(_SETTINGS_URL, "http://127.0.0.1:8000"))
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.noneEnabled = True
        self.volume.setMRMLScene(slicer.mrmlScene)
        self.volume.connect("currentNodeChanged(vtkMRMLNode*)", self.on_volume)
        self.model = qt.QComboBox()
        self.modality = qt.QComboBox()
        self.whole = qt.QCheckBox("the whole volume (else the axial slice that is shown)")
        self.whole.checked = True
        self.question = qt.QLineEdit()
        self.question.placeholderText = "Where is the lesion?"
        self.question.connect("returnPressed()", self.on_ask)
        for title, widget in (
            ("Server", self.url),
            ("Model", self.model),
            ("Image", self.volume),
            ("Modality", self.modality),
            ("Ask about", self.whole),
            ("Question", self.question),
        ):
            form.addRow(title, widget)
        self._button("Connect", self.on_connect)
        self._button("Ask", self.on_ask)
        self.answer = qt.QPlainTextEdit()
        self.answer.readOnly = True
        self.layout.addWidget(self.answer)
        self.history = qt.QListWidget()
        self.layout.addWidget(qt.QLabel("Asked so far"))
        self.layout.addWidget(self.history)
        self.correction = qt.QLineEdit()
        self.correction.placeholderText = "A better sentence, if you have one"
        self.layout.addWidget(self.correction)
        self._button("Save the corrected segment as a label", self.on_save)
        self.layout.addStretch(1)

    def on_connect(self):
        """Ask the server for its options."""
        qt.QSettings().setValue(_SETTINGS_URL, self.url.text)
        with self._showing_errors():
            server = self.logic.connect(self.url.text)
            if server.needs_login():
                name = qt.QInputDialog.getText(None, "Log in", "User name")
                password = qt.QInputDialog.getText(None, "Log in", "Password", qt.QLineEdit.Password)
                server.login(name, password)
            models = server.info()["models"]
            for box, items in (
                (self.model, list(models)),
                (self.modality, next(iter(models.values()))["config"]["modality"]),
            ):
                box.clear()
                box.addItems(items)
            self.answer.plainText = "Connected."

    def on_volume(self, _node):
        """Another image: another conversation."""
        self.logic.forget()
        self.history.clear()

    def on_ask(self):
        """Ask, and show what comes back."""
        with self._showing_errors():
            slice_index = None if self.whole.checked else self.logic.shown_axial_slice(self.volume.currentNode())
            params = self.logic.ask(
                self.volume.currentNode(),
                self.question.text,
                self.modality.currentText,
                slice_index,
                model=self.model.currentText,
            )
            self.answer.plainText = "\n".join(answer_lines(params))
            self.history.clear()
            self.history.addItems(self.logic.conversation.lines())

    def on_save(self):
        """Save the segment as a person left it."""
        with self._showing_errors():
            self.logic.save_label(self.volume.currentNode(), self.correction.text)
            self.answer.plainText = "Saved."

    def _button(self, text, pressed):
        button = qt.QPushButton(text)
        button.connect("clicked()", pressed)
        self.layout.addWidget(button)
        return button

    def _showing_errors(self):
        return _ShowErrors(self.answer)


class _ShowErrors:
    """Says what went wrong in the answer box, and shows that something is under way."""

    def __init__(self, box):
        self.box = box

    def __enter__(self):
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)

    def __exit__(self, kind, error, _trace):
        qt.QApplication.restoreOverrideCursor()
        if kind is not None and issubclass(kind, ServerError):
            self.box.plainText = f"Not answered: {error}"
            return True
        return False


class PrsmedAskLogic(ScriptedLoadableModuleLogic):
    """Between Slicer's nodes and the server."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.server = None
        self.folder = Path(tempfile.mkdtemp(prefix="prsmed-slicer-", dir=slicer.app.temporaryPath))
        self.forget()

    def connect(self, url):
        """Use another server."""
        self.server = LabelServer(url.strip())
        self.forget()
        return self.server

    def forget(self):
        """Another image is looked at."""
        self.conversation = Conversation()
        self.session_id = ""
        self.segmentation = None
        self.earlier_ids = set()
        self.modality = ""

    def ask(self, volume, question, modality, slice_index=None, *, model="prsmed"):
        """Upload the image once, ask, and show the label map as a new segment."""
        if self.server is None or volume is None:
            raise ServerError("connect to a server and choose an image first")
        if not self.session_id:
            image = self.folder / "image.nii.gz"
            if not slicer.util.saveNode(volume, str(image)):
                raise ServerError("the image cannot be written as NIfTI")
            self.session_id = self.server.upload(image)
        options = {"question": question, "modality": modality, "axis": "axial", "slice": slice_index}
        reply = self.server.ask(self.folder, options, model=model, session_id=self.session_id)
        self.modality = modality
        self.conversation.add(question, reply.params)
        self.show(volume, reply.label, segment_name(reply.params))
        return reply.params

    def show(self, volume, label, name):
        """The label map as one more segment; an empty one adds none."""
        if self.segmentation is None:
            self.segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Answers")
            self.segmentation.CreateDefaultDisplayNodes()
            self.segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node = slicer.util.loadLabelVolume(str(label))
        segmentation = self.segmentation.GetSegmentation()
        self.earlier_ids = set(segmentation.GetSegmentIDs())
        slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(node, self.segmentation)
        slicer.mrmlScene.RemoveNode(node)
        for segment_id in new_segments(segmentation.GetSegmentIDs(), self.earlier_ids):
            segmentation.GetSegment(segment_id).SetName(name)

    def save_label(self, volume, answer):
        """Save what answers the last question, on the grid of its image; the image must be one of the studies.

        That is every segment that came with the answer or was drawn after it; where there is none, an empty label.
        """
        if self.server is None or not self.conversation.turns or self.segmentation is None:
            raise ServerError("ask a question first")
        ids = new_segments(self.segmentation.GetSegmentation().GetSegmentIDs(), self.earlier_ids)
        if ids:
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
            slicer.modules.segmentations.logic().ExportSegmentsToLabelmapNode(self.segmentation, ids, node, volume)
        else:
            node = slicer.modules.volumes.logic().CreateAndAddLabelVolume(slicer.mrmlScene, volume, "label")
        label = self.folder / "corrected.nii.gz"
        slicer.util.saveNode(node, str(label))
        slicer.mrmlScene.RemoveNode(node)
        question = self.conversation.turns[-1][0]
        self.server.save_label(volume.GetName(), label, question=question, answer=answer, modality=self.modality)

    def shown_axial_slice(self, volume):
        """The index of the slice that the red view shows, along the stored array."""
        if volume is None:
            raise ServerError("choose an image first")
        offset_mm = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceOffset()
        to_ijk, to_ras = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
        volume.GetRASToIJKMatrix(to_ijk)
        volume.GetIJKToRASMatrix(to_ras)
        rows = [[[matrix.GetElement(i, j) for j in range(4)] for i in range(4)] for matrix in (to_ijk, to_ras)]
        return axial_index(rows[0], rows[1], volume.GetImageData().GetDimensions(), offset_mm)


class PrsmedAskTest(ScriptedLoadableModuleTest):
    """Slicer's own test button: the module loads and its panel is there."""

    def runTest(self):
        """Called by Slicer."""
        self.setUp()
        assert slicer.modules.prsmedask is not None
