package infra

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/deployer/internal/terraform"
	"github.com/clusterworks/deploy/manifests"
)

// keyed finds the resource's name and key in an engine's address:
// module.x.libvirt_volume.disk["db/0"].
var keyed = regexp.MustCompile(`\.(\w+)\["([^"]+)"\]$`)

// vmWord stands in an advice for the vm block of the instance.
var vmWord = regexp.MustCompile(`\bVM\b`)

// advice holds what an infrastructure's complaint means for the manifest, the first that
// fits.
var advice = []struct {
	said *regexp.Regexp
	do   string
}{
	{regexp.MustCompile(`(?i)no space left|not enough (free )?(space|disk)|disk (is )?full`),
		"the infrastructure's disk is full: free some, then apply again; VMs that exist are as they were"},
	{regexp.MustCompile(`(?i)quota|limit ?exceeded|too many (instances|requests)|insufficient\w*capacity|no valid host|resource[ _]exhausted`),
		"the infrastructure gives no more of this: raise its quota, or ask for less (instances of the group; cpus and memory_mb of VM)"},
	{regexp.MustCompile(`(?i)unauthori[sz]ed|forbidden|access ?denied|invalid (credentials|token)|authentication (failed|required)|\b40[13]\b`),
		"the infrastructure does not let deploy in: check the credentials that the template wants (templates/README.md)"},
	{regexp.MustCompile(`(?i)\b(image|ami|stemcell|snapshot)\b.{0,120}(not found|not be found|does not exist|no such|no results|invalid)|(invalidamiid|no such file)`),
		"the image is not there: correct image or stemcell of VM"},
	{regexp.MustCompile(`(?i)\b(flavor|instance ?type|server ?type|machine ?type)\b.{0,120}(not found|does not exist|invalid|unsupported|no results|not available)`),
		"there is no machine of this size: correct options of VM"},
	{regexp.MustCompile(`(?i)\baddress\b.{0,120}(in use|already|not available|out of range|no more free)|no more ip addresses`),
		"the address cannot be had: correct static of the group's network, or take a larger range"},
	{regexp.MustCompile(`(?i)out of memory|cannot allocate memory|insufficient memory`),
		"the host has too little memory: ask for less (memory_mb of VM), or stop others"},
}

// explain adds to what the engine complains of whose it is, where the manifest says
// it, and what to do.
func explain(err error, m *manifests.Manifest) error {
	var failed *terraform.Error
	if !errors.As(err, &failed) {
		return err
	}
	var lines []string
	for _, d := range failed.Diagnostics {
		line := ""
		found := keyed.FindStringSubmatch(d.Address)
		vm := "the vm block"
		if found != nil {
			id := strings.TrimSuffix(found[2], besideMark)
			name, index, err := api.SplitInstance(id)
			g := m.Group(name)
			if err != nil || g == nil {
				continue // an image, or what the manifest has no more
			}
			what := "the VM"
			if found[1] == terraform.DiskResource {
				what = "the disk"
			}
			line = fmt.Sprintf("this is %s of %s (group %s)", what, id, at(g.Range.Filename, g.Range.Start.Line))
			if size := g.VMFor(index); size != nil && size.Range.Filename != "" {
				vm = fmt.Sprintf("vm %q (%s)", size.Name, at(size.Range.Filename, size.Range.Start.Line))
			}
			if found[1] == terraform.DiskResource && g.Disk != nil {
				line += fmt.Sprintf(", disk %q (%s)", g.Disk.Name, at(g.Disk.Range.Filename, g.Disk.Range.Start.Line))
			}
		}
		for _, a := range advice {
			if a.said.MatchString(d.Summary + ". " + d.Detail) {
				line = strings.TrimPrefix(line+": "+vmWord.ReplaceAllLiteralString(a.do, vm), ": ")
				break
			}
		}
		if line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	if len(lines) > 0 {
		failed.Advice = strings.TrimSpace(failed.Advice + "\n" + strings.Join(lines, "\n"))
	}
	return err
}

func at(file string, line int) string { return fmt.Sprintf("%s:%d", file, line) }
