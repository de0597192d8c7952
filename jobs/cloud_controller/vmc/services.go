package vmc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

func servicesCommand(v *vmc) *cobra.Command {
	return v.command(&cobra.Command{
		Use:     "services",
		Short:   "List the services on offer and your own",
		Example: "  vmc services",
		Args:    cobra.NoArgs,
	}, func(ctx context.Context, c *client.Client, _ []string) error {
		offers, err := c.ServiceOffers(ctx)
		if err != nil {
			return err
		}
		mine, err := c.Services(ctx)
		if err != nil {
			return err
		}
		if v.json {
			return v.printJSON(map[string]any{"offered": append([]client.ServiceOffer{}, offers...), "yours": append([]client.Service{}, mine...)})
		}
		if len(offers) == 0 {
			v.say("This cloud offers no services.")
		} else {
			t := newTable("SERVICE", "VERSION", "PLANS", "DESCRIPTION")
			for _, o := range offers {
				t.row(o.Vendor, o.Version, strings.Join(slices.Sorted(maps.Keys(o.Tiers)), ", "), o.Description)
			}
			if err := t.print(v.out); err != nil {
				return err
			}
		}
		if len(mine) == 0 {
			v.say("You have no services.")
			return nil
		}
		if len(offers) > 0 {
			fmt.Fprintln(v.out)
		}
		t := newTable("NAME", "SERVICE", "VERSION", "PLAN")
		for _, s := range mine {
			t.row(s.Name, s.Vendor, s.Version, s.Tier)
		}
		return t.print(v.out)
	})
}

// offer finds what a user calls a service.
func offer(offers []client.ServiceOffer, vendor, version string) (client.ServiceOffer, error) {
	var found *client.ServiceOffer
	var names []string
	for i, o := range offers {
		names = append(names, o.Vendor)
		if o.Vendor == vendor && (version == "" || o.Version == version) {
			found = &offers[i] // the highest version, by the list's order
		}
	}
	if found == nil {
		if len(names) == 0 {
			return client.ServiceOffer{}, fmt.Errorf("this cloud offers no services")
		}
		return client.ServiceOffer{}, fmt.Errorf("this cloud offers no %s %s; it offers %s", vendor, version, strings.Join(slices.Compact(names), ", "))
	}
	return *found, nil
}

func createServiceCommand(v *vmc) *cobra.Command {
	var plan, version, bind string
	var h how
	c := v.command(&cobra.Command{
		Use:     "create-service SERVICE [NAME]",
		Short:   "Create a service; --bind binds an app to it",
		Example: "  vmc create-service redis cache --bind hello",
		Args:    cobra.RangeArgs(1, 2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		offers, err := c.ServiceOffers(ctx)
		if err != nil {
			return err
		}
		o, err := offer(offers, args[0], version)
		if err != nil {
			return err
		}
		name := args[0]
		if len(args) == 2 {
			name = args[1]
		}
		if err := c.CreateService(ctx, client.Service{Name: name, Type: o.Type, Vendor: o.Vendor, Version: o.Version, Tier: plan}); err != nil {
			return err
		}
		v.say("Created %s, a %s %s.", name, o.Vendor, o.Version)
		if bind == "" {
			return only(v, map[string]string{"service": name, "vendor": o.Vendor, "version": o.Version})
		}
		return v.bind(ctx, c, name, bind, h)
	})
	c.Flags().StringVar(&plan, "plan", "free", "the plan")
	c.Flags().StringVar(&version, "version", "", "the version (default: the highest)")
	c.Flags().StringVar(&bind, "bind", "", "bind this `app` to the service")
	howFlags(c, &h)
	return c
}

func deleteServiceCommand(v *vmc) *cobra.Command {
	var force bool
	c := v.command(&cobra.Command{
		Use:     "delete-service NAME...",
		Short:   "Delete services and the data in them",
		Example: "  vmc delete-service cache --force",
		Args:    cobra.MinimumNArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		if err := v.confirm(force, "Delete %s and all its data?", strings.Join(args, ", ")); err != nil {
			return err
		}
		for _, name := range args {
			if err := c.DeleteService(ctx, name); err != nil {
				return serviceError(err, name)
			}
			if !v.json {
				v.say("Deleted %s.", name)
			}
		}
		return only(v, map[string]any{"deleted": args})
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return c
}

func (v *vmc) bind(ctx context.Context, c *client.Client, service, app string, h how) error {
	err := v.changeAndRestart(ctx, c, app, "bind-service", h, func(a *client.App) error {
		if !slices.Contains(a.Services, service) {
			a.Services = append(a.Services, service)
		}
		return nil
	})
	return serviceError(err, service)
}

func bindServiceCommand(v *vmc) *cobra.Command {
	var h how
	c := v.command(&cobra.Command{
		Use:     "bind-service NAME APP",
		Short:   "Bind a service to an app; a started app is restarted",
		Example: "  vmc bind-service cache hello",
		Args:    cobra.ExactArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		return v.bind(ctx, c, args[0], args[1], h)
	})
	howFlags(c, &h)
	return c
}

func unbindServiceCommand(v *vmc) *cobra.Command {
	var h how
	c := v.command(&cobra.Command{
		Use:     "unbind-service NAME APP",
		Short:   "Unbind a service from an app; a started app is restarted",
		Example: "  vmc unbind-service cache hello",
		Args:    cobra.ExactArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		return v.changeAndRestart(ctx, c, args[1], "unbind-service", h, func(a *client.App) error {
			i := slices.Index(a.Services, args[0])
			if i < 0 {
				return fmt.Errorf("%s is not bound to %s", a.Name, args[0])
			}
			a.Services = slices.Delete(a.Services, i, i+1)
			return nil
		})
	})
	howFlags(c, &h)
	return c
}
