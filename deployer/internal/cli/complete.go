package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/deployer"
)

// completion describes what cobra asks for.
type completion = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// completeFiles leaves it to the shell.
func completeFiles(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{"hcl"}, cobra.ShellCompDirectiveFilterFileExt
}

// names asks the manifest, the first argument, for what there is. A manifest
// that cannot be read has nothing to offer.
func namesOf(a *app, args []string) deployer.Names {
	if len(args) == 0 {
		return deployer.Names{}
	}
	d, err := a.deployer(args[0], nil)
	if err != nil {
		return deployer.Names{}
	}
	names, err := d.Names()
	if err != nil {
		return deployer.Names{}
	}
	return names
}

// complete offers, after the manifest, what pick takes of its names; not twice
// the same. With most, no more than so many arguments are offered.
func complete(a *app, most int, pick func(deployer.Names) []string) completion {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return completeFiles(cmd, args, toComplete)
		}
		if most > 0 && len(args) > most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, name := range pick(namesOf(a, args)) {
			word, _, _ := strings.Cut(name, "\t")
			if strings.HasPrefix(word, toComplete) && !slices.Contains(args[1:], word) {
				out = append(out, name)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeInstances offers instances, and groups too if a command takes them, as
// many as one likes.
func completeInstances(a *app, groups bool) completion {
	return complete(a, 0, func(n deployer.Names) []string {
		if groups {
			return append(slices.Clone(n.Groups), n.Instances...)
		}
		return n.Instances
	})
}

// completeRevisions offers the revisions that are kept, up to so many.
func completeRevisions(a *app, most int) completion {
	return complete(a, most, func(n deployer.Names) []string {
		var out []string
		for _, r := range n.Revisions {
			out = append(out, fmt.Sprintf("%d\t%s", r.Number, r.At.Local().Format("2006-01-02 15:04")))
		}
		return out
	})
}
