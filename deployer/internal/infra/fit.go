package infra

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/session"
	"github.com/clusterworks/deploy/manifests"
)

// CheckDisks returns an error if the manifest asks of the persistent disks there
// are what no disk can do: to become smaller, or to follow its instance into
// another zone.
func CheckDisks(s *session.Session) error {
	known := knownDisks(s.State.VMs, s.State.Orphans)
	var diags hcl.Diagnostics
	for _, g := range s.Manifest.Groups {
		var larger, elsewhere []string
		for _, slot := range s.State.Groups[g.Name] {
			id := api.InstanceID(g.Name, slot.Index)
			disk, has := known[id]
			if !has || g.Disk == nil {
				continue
			}
			if disk.SizeGB > g.Disk.SizeGB {
				larger = append(larger, fmt.Sprintf("%s has one of %d GB", id, disk.SizeGB))
			}
			if len(g.AZs) > 0 && slot.AZ != "" && !slices.Contains(g.AZs, slot.AZ) {
				elsewhere = append(elsewhere, fmt.Sprintf("%s is in %s", id, slot.AZ))
			}
		}
		if len(larger) > 0 {
			diags = append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Disk cannot shrink", Subject: g.Disk.Range.Ptr(),
				Detail: fmt.Sprintf("Disk %q of group %q has %d GB now, but %s, with data on it, and a disk cannot become smaller. Put the size back, or move the data to a group with a smaller disk.",
					g.Disk.Name, g.Name, g.Disk.SizeGB, strings.Join(larger, ", ")),
			})
		}
		if len(elsewhere) > 0 {
			diags = append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Disk cannot leave its zone", Subject: g.AZsRange.Ptr(),
				Detail: fmt.Sprintf("The zones of group %q are %s now, but %s, with a persistent disk, which cannot leave its zone. Put the zone back, or move the data to a group in other zones.",
					g.Name, strings.Join(g.AZs, ", "), strings.Join(elsewhere, ", ")),
			})
		}
	}
	if diags.HasErrors() {
		return &manifests.Error{Diagnostics: diags, Files: s.Manifest.Files}
	}
	return nil
}

// WarnZones says which zones of the manifest stay empty because the instances
// that could have gone there have persistent disks, which keep them where they are.
func WarnZones(s *session.Session) {
	known := knownDisks(s.State.VMs, s.State.Orphans)
	for _, g := range s.Manifest.Groups {
		in, disks := map[string]int{}, map[string]int{}
		for _, slot := range s.State.Groups[g.Name] {
			in[slot.AZ]++
			if _, has := known[api.InstanceID(g.Name, slot.Index)]; has {
				disks[slot.AZ]++
			}
		}
		crowded := slices.ContainsFunc(g.AZs, func(az string) bool { return in[az] > 1 && disks[az] > 0 })
		for _, az := range g.AZs {
			if in[az] == 0 && crowded {
				s.Event(session.Event{Phase: session.PhaseLoad, Message: fmt.Sprintf(
					"zone %q of group %q stays empty: instances with a persistent disk cannot leave their zones; raise instances to use it (%s)",
					az, g.Name, at(g.AZsRange.Filename, g.AZsRange.Start.Line))})
			}
		}
	}
}

// WarnRenamed says which groups with persistent disks go while others with disks are new: a
// group that was renamed without a moved block would leave its data behind.
func WarnRenamed(s *session.Session) {
	var gone, fresh []string
	there := map[string]bool{} // groups with VMs
	for id := range s.State.VMs {
		group, _, _ := api.SplitInstance(id) // of one that is no id it is nobody's
		there[group] = true
	}
	for id := range knownDisks(s.State.VMs, nil) {
		if group, _, err := api.SplitInstance(id); err == nil && s.Manifest.Group(group) == nil && !slices.Contains(gone, group) {
			gone = append(gone, group)
		}
	}
	for _, g := range s.Manifest.Groups {
		if g.Disk != nil && g.Instances > 0 && !there[g.Name] {
			fresh = append(fresh, strconv.Quote(g.Name))
		}
	}
	slices.Sort(gone)
	for _, group := range gone {
		if len(fresh) > 0 {
			s.Event(session.Event{Phase: session.PhaseLoad, Message: fmt.Sprintf(
				"group %q, which has disks, is deleted, and %s gets empty ones; if the group was renamed, a moved block (from = %[1]q, to = %[3]s) keeps them",
				group, strings.Join(fresh, " or "), fresh[0])})
		}
	}
}
