package plan

import (
	"fmt"
	"reflect"
	"slices"
)

// Differences says where another plan does something else; the words of causes
// do not count, nor do files' contents. None: it does the same.
func (p *Plan) Differences(other *Plan) []string {
	var out []string
	if !slices.Equal(p.VMs, other.VMs) {
		out = append(out, "other VMs would be made, changed or deleted")
	}
	if !slices.Equal(p.Disks, other.Disks) {
		out = append(out, "other disks would be kept, taken or deleted")
	}
	now := map[string]InstanceChange{}
	for _, c := range other.Instances {
		now[c.Instance] = c
	}
	for _, c := range p.Instances {
		n, there := now[c.Instance]
		delete(now, c.Instance)
		switch a, b := c.effect(), n.effect(); {
		case !there:
			out = append(out, c.Instance+" is not there any more")
		case c.Action != n.Action:
			out = append(out, fmt.Sprintf("%s would now have to %s instead of %s", c.Instance, verb(n.Action), verb(c.Action)))
		case n.Census != nil && !c.Census.covers(*n.Census):
			out = append(out, "more lives on "+c.Instance+" than the plan says, and would be lost")
		case !reflect.DeepEqual(a, b):
			out = append(out, c.Instance+" would now change in another way")
		}
	}
	for _, c := range other.Instances {
		if _, left := now[c.Instance]; left {
			out = append(out, fmt.Sprintf("%s is new, and would have to %s", c.Instance, verb(c.Action)))
		}
	}
	return out
}

func verb(a Action) string {
	if a == None {
		return "do nothing"
	}
	return string(a)
}

// effect is a change without what is only told about it.
func (c InstanceChange) effect() InstanceChange {
	// Ids and certificates are made anew until an apply keeps them, and are in
	// generations and diffs; what those follow from is compared by the caller.
	c.Causes, c.To, c.Census = nil, "", nil
	c.Processes = slices.Clone(c.Processes)
	for i := range c.Processes {
		c.Processes[i].Cause = ""
	}
	c.Files = slices.Clone(c.Files)
	for i := range c.Files {
		c.Files[i].Inputs, c.Files[i].Diff = nil, ""
	}
	if len(c.Drift) == 0 {
		c.Drift = nil
	}
	return c
}
