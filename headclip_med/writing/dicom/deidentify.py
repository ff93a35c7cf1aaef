"""Our own DICOM objects without the patient: PS3.15 Basic Application Level Confidentiality Profile, minimally.

Only for objects that this package made, whose attributes it knows. At the top level everything is
removed that is not on the list of what our objects are made of, so that no attribute of the source can slip through.
Libraries that anonymise any file go by a list of the patient's attributes instead, and leave what is not on it.

| attribute | action |
|---|---|
| patient's name and ID | dummy: a pseudonym |
| birth date, sex, accession number, study ID, study date and time, referring physician | emptied (Z) |
| content date and time, which must have a value | dummy: 1970-01-01, 00:00 (D) |
| device serial number, which must have a value | dummy: 0 (D) |
| position reference indicator, which is free text of the source | emptied (Z) |
| all other dates and times, patient, study, trial, visit, request, equipment of the source | removed (X) |
| private attributes | removed (X) |
| UIDs of study, series, instances, frame of reference, tracking, dimensions, devices, and references | replaced (U) |
| our own descriptions | kept: they never hold text of the source (Clean Descriptors Option) |

Pixels are not cleaned: a secondary capture of an ultrasound image shows what was burnt into that image.
"""

from __future__ import annotations

import os
from copy import deepcopy

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from headclip_med.writing.dicom.uids import derived_uid

SALT = "HEADCLIP_DEIDENTIFY_SALT"  # environment variable: a secret, the same wherever results are to fit together

_EMPTIED = (
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_DUMMY = {
    "ContentDate": "19700101",
    "ContentTime": "000000",
    "DeviceSerialNumber": "0",
    "PositionReferenceIndicator": "",
}

# Groups that hold pixels, segments, presentation, functional groups: all of our own making.
_OWN_GROUPS = (0x0028, 0x0062, 0x0066, 0x0070, 0x2050, 0x5200, 0x7FE0)
_KEPT = {
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ConversionType",
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "SeriesDescription",
    "CodingSchemeIdentificationSequence",
    "ReferencedSeriesSequence",
    "SourceImageSequence",
    "ReferencedPerformedProcedureStepSequence",
    "DerivationDescription",
    "BodyPartExamined",
    "ContentQualification",
    "ContributingEquipmentSequence",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "PatientOrientation",
    "Laterality",
    "FrameOfReferenceUID",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationType",
    "ImageComments",
    "AcquisitionContextSequence",
    "RealWorldValueMappingSequence",
    # the content of a report
    "ValueType",
    "ConceptNameCodeSequence",
    "ContinuityOfContent",
    "PerformedProcedureCodeSequence",
    "CurrentRequestedProcedureEvidenceSequence",
    "PertinentOtherEvidenceSequence",
    "CompletionFlag",
    "VerificationFlag",
    "PreliminaryFlag",
    "ContentTemplateSequence",
    "ContentSequence",
    *_EMPTIED,
    *_DUMMY,
}

_METHOD = "headclip-med, own objects only: PS3.15 basic profile"  # 64 characters at most
_PROFILE = (codes.DCM.BasicApplicationConfidentialityProfile, codes.DCM.CleanDescriptorsOption)

_DICOM_ROOT = "1.2.840.10008."  # classes, syntaxes, coding schemes: the same for everybody
_TIMES_OF_EQUIPMENT = "ContributionDateTime"


def deidentified(dataset: Dataset) -> Dataset:
    """Copy one of our objects without the patient, by the table above.

    The same original UID gets the same new UID in every object, run and machine that shares the salt in the
    environment variable ``HEADCLIP_DEIDENTIFY_SALT``. Without a secret salt, whoever has the original study can find
    out that an object belongs to it.

    Args:
        dataset: An object that this package made, which stays as it is.

    Returns:
        The copy, which says how it was de-identified.
    """
    salt, study_uid = os.environ.get(SALT, ""), str(dataset.StudyInstanceUID)
    patient = str(dataset.get("PatientID") or "")
    # without a secret, a short hospital number could be found by trying all of them: a UID is long
    known = patient if salt and patient else study_uid
    pseudonym = derived_uid("pseudonym", salt, known)[-12:]
    made = deepcopy(dataset)
    for element in list(made):
        if element.tag.is_private or not (element.keyword in _KEPT or element.tag.group in _OWN_GROUPS):
            del made[element.tag]
    for keyword in _EMPTIED:
        setattr(made, keyword, "")
    for keyword, value in _DUMMY.items():
        if keyword in made:
            setattr(made, keyword, value)
    _keep_own_equipment(made)
    _replace_uids(made, salt)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.PatientName, made.PatientID = f"Anonymous^{pseudonym}", pseudonym
    _state(made)
    return made


def replaced_uid(uid: str, salt: str) -> str:
    """Replace a UID of a patient's study. Those that DICOM itself defines stay as they are.

    Args:
        uid: The original, or an empty string, which stays empty.
        salt: A secret. Equal salts give equal UIDs.

    Returns:
        A UID below 2.25, unless the given one stays.
    """
    return uid if uid.startswith(_DICOM_ROOT) or not uid else derived_uid("de-identified", salt, uid)


def _keep_own_equipment(made: Dataset) -> None:
    items = [item for item in made.get("ContributingEquipmentSequence") or [] if item.get("InstitutionName") is None]
    own = [item for item in items if item.get("ManufacturerModelName") == "highdicom"]
    for item in own:
        if _TIMES_OF_EQUIPMENT in item:
            del item[_TIMES_OF_EQUIPMENT]
    if "ContributingEquipmentSequence" in made:
        made.ContributingEquipmentSequence = own


def _replace_uids(dataset: Dataset, salt: str) -> None:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _replace_uids(item, salt)
        elif element.VR == "UI" and element.value:
            several = not isinstance(element.value, str)
            new = [replaced_uid(str(uid), salt) for uid in (element.value if several else [element.value])]
            element.value = new if several else new[0]


def _state(made: Dataset) -> None:
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = _METHOD
    made.DeidentificationMethodCodeSequence = [_code(code) for code in _PROFILE]
    made.LongitudinalTemporalInformationModified = "REMOVED"


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item
