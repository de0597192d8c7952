package manifests

import (
	"regexp"
	"slices"

	"github.com/clusterworks/deploy/manifests/internal/syntax"
)

var (
	saidDomain = regexp.MustCompile(`\bdomain "?([a-z0-9*.-]+)"?`)
	saidListen = regexp.MustCompile(`\bjob ([a-z][a-z0-9_-]*), listen ([A-Za-z0-9_-]+)`)
	saidExtra  = regexp.MustCompile(`\bproperty extra\b`)
)

// Places returns where the manifest says what the message of a VM is about, as
// "file:line": agents and jobs know domains, and the ports of jobs, by name, and
// nothing of the manifest. Empty if the message names none.
func (m *Manifest) Places(message string) []string {
	var places []string
	for _, found := range saidDomain.FindAllStringSubmatch(message, -1) {
		for _, d := range m.Domains {
			if d.Name == found[1] && !d.Implied {
				places = append(places, syntax.Place(d.Range))
			}
		}
	}
	listens := saidListen.FindAllStringSubmatch(message, -1)
	for _, g := range m.Groups {
		for _, job := range g.Jobs {
			if attr := job.properties["extra"]; attr != nil && saidExtra.MatchString(message) {
				places = append(places, syntax.Place(attr.Range))
			}
			for _, listen := range job.Spec.Listens {
				if listen.Port != nil && slices.ContainsFunc(listens, func(found []string) bool { return found[1] == job.Spec.Name && found[2] == listen.Name }) {
					places = append(places, syntax.Place(listenRange(job, listen)))
				}
			}
		}
	}
	slices.Sort(places)
	return slices.Compact(places)
}
