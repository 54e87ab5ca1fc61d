"""What a galaxy is made of: objects, their templates, and attributes with types."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mxfast.codec import ValueKind
from mxfast.contract import galaxy_repository as pb

# Category ids of AVEVA's objects; inferred.
USER_DEFINED, AREA = 10, 13

FREE_ACCESS, OPERATE, SECURED_WRITE, VERIFIED_WRITE = range(4)
"""Security classifications, as AVEVA numbers them; inferred."""


class DataType(NamedTuple):
    """A type that attributes can have."""

    number: int
    """MxDataType as MXAccess numbers it: the contract's number is two more."""
    name: str
    kind: ValueKind
    """What a value of it is in the tag database."""


BOOLEAN = DataType(1, "Boolean", ValueKind.BOOL)
INTEGER = DataType(2, "Integer", ValueKind.INT32)
FLOAT = DataType(3, "Float", ValueKind.FLOAT)
DOUBLE = DataType(4, "Double", ValueKind.DOUBLE)
STRING = DataType(5, "String", ValueKind.STRING)
TIME = DataType(6, "Time", ValueKind.TIMESTAMP)

DATA_TYPES = {each.name: each for each in (BOOLEAN, INTEGER, FLOAT, DOUBLE, STRING, TIME)}


class Attribute(NamedTuple):
    """One attribute of a template."""

    name: str
    type: DataType
    length: int = 0
    """Elements of an array, 0 for a scalar."""
    historized: bool = False
    alarm: bool = False
    security: int = OPERATE


class Template:
    """What objects of one kind have in common; many objects share one.

    Parameters
    ----------
    chain : sequence of str
        Names of the templates it derives from, the nearest first.
    category : int
        Category id.
    attributes : iterable of Attribute
        The attributes that its objects have.
    """

    __slots__ = ("attributes", "category", "chain", "has_alarm", "has_history")

    def __init__(
        self, chain: Iterable[str], category: int, attributes: Iterable[Attribute]
    ) -> None:
        self.chain = tuple(chain)
        self.category = category
        self.attributes: Mapping[str, Attribute] = {each.name: each for each in attributes}
        self.has_alarm = any(each.alarm for each in self.attributes.values())
        self.has_history = any(each.historized for each in self.attributes.values())


class GalaxyObject(NamedTuple):
    """One object, without its attributes: they are its template's."""

    gobject_id: int
    tag_name: str
    contained_name: str
    parent: int
    template: Template

    @property
    def browse_name(self) -> str:
        """Its contained name, or its tag name where it is in no other object."""
        return self.contained_name or self.tag_name

    def message(self, *, with_attributes: bool) -> pb.GalaxyObject:
        """Return it as a message."""
        message = pb.GalaxyObject(
            gobject_id=self.gobject_id,
            tag_name=self.tag_name,
            contained_name=self.contained_name,
            browse_name=self.browse_name,
            parent_gobject_id=self.parent,
            is_area=self.template.category == AREA,
            category_id=self.template.category,
            hosted_by_gobject_id=self.parent,
            template_chain=self.template.chain,
        )
        for attribute in self.template.attributes.values() if with_attributes else ():
            message.attributes.add(
                attribute_name=attribute.name,
                full_tag_reference=f"{self.tag_name}.{attribute.name}",
                mx_data_type=attribute.type.number,
                data_type_name=attribute.type.name,
                is_array=attribute.length > 0,
                array_dimension=attribute.length,
                array_dimension_present=attribute.length > 0,
                security_classification=attribute.security,
                is_historized=attribute.historized,
                is_alarm=attribute.alarm,
            )
        return message
