"""What every part of the service rests on: settings, database, migrations, traps."""
